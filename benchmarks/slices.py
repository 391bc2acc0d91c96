"""What does every method's ImageNet recipe cost on a TPU slice?

    python benchmarks/slices.py [--topology=v5e:4x4] [METHOD ...]
    python benchmarks/slices.py --large [--topology=v5e:4x4] [vit_large ...]

Plans every method's `imagenet` preset (or those named) with `python -m ssl_jax.plan`: at the authors' batch if it fits,
else with the first two and then all stages of the backbone rematerialised, else at the largest power of two below that
fits. Each try is appended to docs/slices.jsonl, and tried no second time; the table is docs/slices.md. A compilation
takes one to five minutes. With --large DINO is planned instead with vision transformers of several sizes (or those
named), with parameters and optimiser sharded over 16 chips and without. With --table nothing is compiled: the tables
are written from the tries. Needs pip install -e .[plan].
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import jax
import record

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ssl_jax import dist
from ssl_jax.methods import build
from ssl_jax.plan import words
from ssl_jax.plan.chips import GIB, find_devices
from ssl_jax.plan.plan import held, stand_in
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRIES, TABLE = ROOT / "docs" / "slices.jsonl", ROOT / "docs" / "slices.md"
REMAT = (2, 4)  # stages, in the order in which they are tried
HEAD = """# What ImageNet costs on a TPU slice

`python benchmarks/slices.py` compiles the training step of every method's `imagenet` preset for a slice that need not
be there, and reads FLOPs, bytes, memory and collectives off the program; views/s and hours are what the side that
bounds the step allows, at 70 % of its peak rate (`python -m ssl_jax.plan --help`), and no measurement. MB a view are
bytes accessed as the compiler counts them; those of main memory, in whole tiles, are what bounds a step, so that what a
small batch keeps on the chip is taken as free. The batch is the authors' where it divides over the chips and fits, with
the first stages of the backbone rematerialised where that is what it takes, else the largest power of two that fits;
where BatchNorm's groups do not divide over the chips, each chip is one. What a method calls a view may be a small crop
or all tiles of an image, so views/s compare with those of the same method alone.

What grows with the slice: SimCLR at 256 images a chip gathers 4.2 MB of embeddings on `v5e:4x4` (batch 4096) and
67.1 MB on `v5e:16x16` (batch 65536), which is all embeddings of the batch, 128 numbers of 4 bytes for each view.
All-reduces left 189.0 and 251.9 MB on a chip before BatchNorm became a part of the kernels (199.1 on `v5e:4x4` since):
the 62.9 MB between them are the gradients of the embeddings gathered, since the compiler makes an all-reduce of their
reduce-scatter. Gradients of weights and BatchNorm's sums do not grow. The links need 1.0 and 1.6 ms of a step at their
peak rate, main memory 139 on `v5e:4x4`.

"""

# Vision transformers under DINO's heads with 65,536 outputs. The larger ones keep the input of each block alone for the
# backward pass, which is what makes room for 32 images of ten views on a chip.
DEEP = {"model.scan": True, "model.remat": 4}
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_small": ("ViT-S/16", {}),
    "vit_base": ("ViT-B/16", {"model.scan": True}),
    "vit_large": ("ViT-L/16", DEEP),
    "vit_giant": (
        "ViT-g/14 as in DINOv2",
        {**DEEP, "model.patch": 14, "model.layer_scale": 1e-5, "method.local.size": 98},
    ),
}
FSDP = 16
LARGE_SLICE = "v5e:4x4"
LARGE_HEAD = """
## Vision transformers of several sizes

DINO with heads of 65,536 outputs, an EMA teacher and AdamW, 512 images an update, of each two crops of 224 pixels and
eight of 96. Between two steps parameters, optimiser and teacher take, added up from their shapes:

| model | parameters, 10^6 | GiB a chip of `{slice}` | with `config.mesh.fsdp={fsdp}` |
|---|---|---|---|
"""
COMPILED_HEAD = """
`python benchmarks/slices.py --large` compiles the step, in bfloat16. ViT-L and ViT-g keep the input of each block for
the backward pass and compute the rest anew (`config.model.remat=4`); blocks of all but ViT-S are a loop
(`config.model.scan=True`). `v5e` has 16 GiB a chip. GiB a chip are those at the peak of the step. Rows with a star
are compiled with `JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1`, which for one block gave a program of the same FLOPs that
moves 1.7 times the bytes ([speed](speed.md)).

Leave at least two devices on the data axis: on `v5e:4x4` that is `fsdp=8`. Blocks in a loop then gather their
parameters one after the other, and tokens stay where they are. With one device on that axis, `fsdp=16`, blocks cannot
be told so: XLA (jax 0.10.2) ends in an internal error. Left to itself it moves far more, which is ViT-L's row, and
compiling ViT-g ends in that error ("Cross-partition allreduce must be in (partial) manual partitioning mode").

All rows have 512 images an update. That is two a chip of `v5e:16x16`, where weights are most of what a view moves: a
batch that grows with the slice comes nearer to the views/s of `v5e:4x4`.

"""


def tried(method: str, topology: str, changes: dict[str, Any]) -> dict[str, Any]:
    """One try, planned now if it is not in the file yet."""
    key = {"method": method, "topology": topology, "changes": changes}
    for line in TRIES.read_text().splitlines() if TRIES.exists() else ():
        row = json.loads(line)
        if {name: row[name] for name in key} == key:
            return row
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "ssl_jax.plan", f"--config=configs/{method}.py:imagenet", *flags]
        command += [f"--topology={topology}", f"--json={out.name}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        row = key | json.loads(pathlib.Path(out.name).read_text()) | record.circumstances()
        row["effort"] = jax.config.jax_exec_time_optimization_effort  # type: ignore[attr-defined]
    with TRIES.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(method, changes, "fits" if row["fits"] else "does not fit", flush=True)
    return row


def best(method: str, topology: str, chips: int) -> dict[str, Any]:
    """The try that the table shows."""
    config = get_config(method, "imagenet")
    batch = config.batch_size
    changes: dict[str, int] = {}
    if config.model.bn_groups > 1 and config.model.bn_groups % chips:
        changes["model.bn_groups"] = chips  # statistics of each chip's own
    if batch % chips:
        batch = 1 << (batch.bit_length() - 1)
        changes["batch_size"] = batch
    while True:
        row = tried(method, topology, changes)
        for stages in REMAT:
            if row["fits"]:
                return row
            row = tried(method, topology, changes | {"model.remat": stages})
        if row["fits"] or batch <= chips:
            return row
        batch = 1 << ((batch - 1).bit_length() - 1)
        changes = changes | {"batch_size": batch}


def write_tables() -> None:
    """Writes the Markdown file from the tries: for each method and slice the one that counts, the last."""
    rows = [json.loads(line) for line in TRIES.read_text().splitlines()]
    last = {(row["topology"], row["method"]): row for row in rows if "model.name" not in row["changes"]}
    shown = [last[key] for key in sorted(last)]
    names = [", ".join([row["method"], *(f"{k}={v}" for k, v in row["changes"].items())]) for row in shown]
    table = labelled("config", names, words.table(shown))
    TABLE.write_text(HEAD + table + large_tables([row for row in rows if "model.name" in row["changes"]]))


def labelled(head: str, names: list[str], table: str) -> str:
    """A table in Markdown with a first column of names."""
    cells = [f"| {head}", "|---", *(f"| {name}" for name in names)]
    return "".join(f"{cell} {line}\n" for cell, line in zip(cells, table.splitlines(), strict=True))


def plan_large(model: str, topology: str) -> None:
    """Plans DINO with a vision transformer, sharded and whole on every chip, unless both are in the file already."""
    for fsdp in (FSDP, 1):
        tried("dino", topology, {"model.name": model, **LARGE[model][1], "mesh.fsdp": fsdp})


def large_tables(rows: list[dict[str, Any]]) -> str:
    """What a chip holds of vision transformers between two steps, and what compiling their steps said."""
    devices = find_devices(LARGE_SLICE)
    text = LARGE_HEAD.format(slice=LARGE_SLICE, fsdp=FSDP)
    for name, (title, changes) in LARGE.items():
        config = get_config("dino", "imagenet")
        config.update_from_flattened_dict({"model.name": name, **changes, "mesh.fsdp": FSDP})
        run = prepare(config, devices, stand_in(config, None))
        count = sum(x.size for x in jax.tree.leaves(run.shapes.params)) / 1e6
        text += f"| {title} | {count:.0f} | {held(run) / GIB:.2f} | {held(run, dist.FSDP) / GIB:.2f} |\n"
    order = list(LARGE)
    rows = sorted(rows, key=lambda row: (order.index(row["changes"]["model.name"]), row["topology"]))
    names = [
        f"{LARGE[row['changes']['model.name']][0]}, fsdp={row['changes']['mesh.fsdp']}"
        + "*" * (row.get("effort", 0) < 0)
        for row in rows
    ]
    return text + COMPILED_HEAD + labelled("model", names, words.table(rows))


def main() -> None:
    """Plans what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of methods or, with --large, of backbones (default: all)"
    )
    parser.add_argument("--topology", default="v5e:4x4", help="slice")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    parser.add_argument("--large", action="store_true", help="DINO with vision transformers of several sizes")
    args = parser.parse_args()
    if args.table:
        write_tables()
    elif args.large:
        for model in args.names or LARGE:
            plan_large(model, args.topology)
            write_tables()
    else:
        chips = len(find_devices(args.topology))
        for method in args.names or build.names():
            best(method, args.topology, chips)
            write_tables()


if __name__ == "__main__":
    main()
