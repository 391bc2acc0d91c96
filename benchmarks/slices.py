"""What does every method's ImageNet recipe cost on a TPU slice?

    python benchmarks/slices.py [--topology=v5e:4x4] [METHOD ...]

Plans every method's `imagenet` preset (or those named) with `python -m ssl_jax.plan`: at the authors' batch if it fits,
else with the first two and then all stages of the backbone rematerialised, else at the largest power of two below that
fits. Each try is appended to docs/slices.jsonl, and tried no second time; the table is docs/slices.md. A compilation
takes one to five minutes. With --table nothing is compiled: the table is written from the tries, and what a chip holds
of large models from their shapes. Needs pip install -e .[plan].
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
from ssl_jax.plan.chips import CHIPS, GIB, find_devices
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

# Networks of a size that needs its parameters spread, under DINO's heads with 65,536 outputs.
LARGE: dict[str, dict[str, Any]] = {
    "DINO, ViT-S/16": {"name": "vit_small"},
    "DINO, ViT-L/16": {"name": "vit_large"},
    "DINO, ViT-g/14 as in DINOv2": {"name": "vit_giant", "patch": 14, "layer_scale": 1e-5},
}
LARGE_SLICE, LARGE_FSDP = "v5e:4x4", 16
LARGE_HEAD = """
## What a chip holds of a large model

`python benchmarks/slices.py --table` adds up parameters, optimiser (AdamW) and the EMA teacher, networks and heads, as
they lie on one chip of `{slice}` with {memory:.0f} GiB of memory between two steps, with `config.mesh.fsdp={fsdp}` and
without. Leaves under 4 MiB stay whole. The table is of shapes alone; activations come on top. Compiling such a
step took more than 25 minutes on two CPU cores and was not waited for.

| model | parameters, 10^6 | GiB a chip without fsdp | with fsdp={fsdp} |
|---|---|---|---|
"""


def tried(method: str, topology: str, changes: dict[str, int]) -> dict[str, Any]:
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


def write_table() -> None:
    """Writes the Markdown file from the tries: for each method and slice the one that counts, the last."""
    rows = [json.loads(line) for line in TRIES.read_text().splitlines()]
    last = {(row["topology"], row["method"]): row for row in rows}
    shown = [last[key] for key in sorted(last)]
    names = [", ".join([row["method"], *(f"{k}={v}" for k, v in row["changes"].items())]) for row in shown]
    lines = words.table(shown).splitlines()
    cells = ["| config", "|---", *(f"| {name}" for name in names)]
    table = "\n".join(f"{cell} {line}" for cell, line in zip(cells, lines, strict=True))
    TABLE.write_text(HEAD + table + "\n" + large_models())


def large_models() -> str:
    """What a chip holds of large models between two steps, from their shapes alone."""
    devices = find_devices(LARGE_SLICE)
    memory = CHIPS[devices[0].device_kind].memory / GIB
    text = LARGE_HEAD.format(slice=LARGE_SLICE, fsdp=LARGE_FSDP, memory=memory)
    for name, model in LARGE.items():
        config = get_config("dino", "imagenet")
        config.model.update(model)
        config.mesh.fsdp = LARGE_FSDP
        run = prepare(config, devices, stand_in(config, None))
        count = sum(x.size for x in jax.tree.leaves(run.shapes.params)) / 1e6
        text += f"| {name} | {count:.0f} | {held(run) / GIB:.2f} | {held(run, dist.FSDP) / GIB:.2f} |\n"
    return text


def main() -> None:
    """Plans what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--topology", default="v5e:4x4", help="slice")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    args = parser.parse_args()
    if args.table:
        write_table()
        return
    chips = len(find_devices(args.topology))
    for method in args.methods or build.names():
        best(method, args.topology, chips)
        write_table()


if __name__ == "__main__":
    main()
