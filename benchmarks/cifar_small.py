"""All methods on one footing: `python benchmarks/cifar_small.py --data=PATH [--epochs=5,20] [METHOD ...]`.

Trains the `cifar10_small` preset of every method (or of those named; multitask takes its tasks as
`multitask+colorization+context_prediction`) and measures it after 5 epochs of the schedule, or after each of --epochs:
the method's own measure on held-out images, kNN, a linear probe of each residual stage and few labels, each beside the
untrained backbone. Fields of the config may follow (--config.FIELD=VALUE). Every row is a line of
docs/cifar_small.jsonl and is measured no second time; the table is docs/cifar_small.md. A run that was interrupted goes
on from its last checkpoint in the folder --runs.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import jax
import joblib
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ssl_jax import methods

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROWS, TABLE = ROOT / "docs" / "cifar_small.jsonl", ROOT / "docs" / "cifar_small.md"
EVALS = "pretext,knn,layers,few_label"
KEPT = re.compile(r"pretext/|knn/top1|layers/\d/top1|few_label/\w+/[a-z]+$")  # of the results
HEAD = """# 10,000 images of CIFAR-10 on a CPU

The `cifar10_small` preset of every method after so many epochs of its schedule: ResNet-18 of 16 channels, the first
1,000 training images of each class, batch 256. Accuracy in % on the 10,000 test images: kNN (k = 20, T = 0.1), logistic
regression on the features of each residual stage, and on 1 and 10 labelled images a class (mean of 5 draws); in
brackets the same backbone before training. The method's own measure is that on test images, beside the untrained
network's or what the answer that knows nothing gets. Minutes are of training alone, on one core while the machine's
other core trained another row. Made by `python benchmarks/cifar_small.py`, whose
`docs/cifar_small.jsonl` has seeds, commits and what else was measured.

"""


def rows() -> list[dict[str, Any]]:
    """The rows measured so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def command(module: str, *arguments: str) -> None:
    """Runs a command of the package, with its output; ends where it fails."""
    done = subprocess.run([sys.executable, "-m", f"ssl_jax.{module}", *arguments], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def measured(method: str, epoch: int, seed: int, flags: list[str], data: str | None, runs: pathlib.Path) -> None:
    """Trains a method until the end of an epoch and evaluates it, if that row is not there yet."""
    key = {"method": method, "seed": seed, "epoch": epoch, "flags": flags}
    if any({name: row[name] for name in key} == key for row in rows()):
        return
    name, plus, tasks = method.partition("+")
    workdir = runs / "".join(x if x.isalnum() or x in "+._=" else "_" for x in "_".join([method, str(seed), *flags]))
    arguments = [f"--config=configs/{name}.py:cifar10_small{plus}{tasks}", f"--workdir={workdir}"]
    arguments += [f"--config.seed={seed}", f"--config.run.stop_epoch={epoch}", *flags]
    if data:
        arguments.append(f"--config.data.source=folder:{data}")
    clock = workdir / "seconds"  # that training took, over all starts of an interrupted run
    start = time.time() - (float(clock.read_text()) if clock.exists() else 0.0)
    try:
        command("main", *arguments)
    finally:
        seconds = time.time() - start
        if workdir.exists():
            clock.write_text(str(seconds))
    command("evaluate", f"--workdir={workdir}", f"--evals={EVALS}")
    results = json.loads((workdir / "results.json").read_text())
    curve = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    device = jax.devices()[0].device_kind
    row = key | {
        "commit": commit.stdout.strip(),
        "device": f"{joblib.cpu_count()} CPU core(s)" if device == "cpu" else f"{jax.device_count()} x {device}",
        "jax": jax.__version__,
        "data": pathlib.Path(data).name if data else "cifar10",
        "minutes": round(seconds / 60, 1),
        "knn_online": {f"{entry['epoch']:g}": entry["knn/top1"] for entry in curve if "knn/top1" in entry},
        "results": {n: round(x, 4) for n, x in results.items() if KEPT.match(n) and isinstance(x, float)},
    }
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _percent(results: dict[str, Any], name: str) -> str:
    value, before = results.get(name), results.get(f"{name}_untrained")
    if value is None:
        return ""
    return f"{100 * value:.1f}" + ("" if before is None else f" ({100 * before:.1f})")


def write_table() -> None:
    """Writes the Markdown file from the rows."""
    head = ["method", "epochs", "kNN", *(f"stage {n}" for n in (1, 2, 3, 4)), "1 label", "10 labels", "minutes"]
    head += ["its own measure"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in sorted(rows(), key=lambda row: (row["epoch"], row["method"], row["seed"])):
        r = row["results"]
        few = []
        for labels in (1, 10):
            pair = [r.get(f"few_label/{labels}/{kind}", np.nan) for kind in ("pretrained", "untrained")]
            few.append("{:.1f} ({:.1f})".format(*(100 * value for value in pair)))
        title = ", ".join([row["method"], *([f"seed {row['seed']}"] if row["seed"] else []), *row["flags"]])
        cells = [title, str(row["epoch"]), _percent(r, "knn/top1")]
        cells += [_percent(r, f"layers/{n}/top1") for n in (1, 2, 3, 4)]
        lines.append(f"| {' | '.join([*cells, *few, str(row['minutes']), own_measure(r)])} |")
    TABLE.write_text(HEAD + "\n".join(lines) + "\n")


def own_measure(results: dict[str, Any]) -> str:
    """The pretext measure beside what the untrained network gets and, where there is one, the know-nothing answer."""
    found = {n.removeprefix("pretext/"): value for n, value in results.items() if n.startswith("pretext/")}
    names = [n for n in found if not n.endswith(("_untrained", "_baseline"))]
    told = []
    for name in [n for n in names if n != "loss"] or names:
        beside = {"untrained": found.get(f"{name}_untrained"), "knows nothing": found.get(f"{name}_baseline")}
        words = [f"{kind} {value:.3g}" for kind, value in beside.items() if value is not None]
        if name.endswith("_mse"):
            words.append(f"PSNR {10 * np.log10(found[f'{name}_baseline'] / found[name]):+.2f} dB over a mean fill")
        told.append(f"{name} {found[name]:.3g} ({', '.join(words)})")
    return "; ".join(told)


def main() -> None:
    """Measures what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--data", metavar="PATH", help="CIFAR-10: folder or tar with train/CLASS and test/CLASS")
    parser.add_argument("--epochs", default="5", help="when to measure, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "cifar_small", help="folder of the runs")
    args, flags = parser.parse_known_args()
    if any(not flag.startswith("--config.") for flag in flags):
        parser.error(f"unknown: {' '.join(flags)}; fields of the config are --config.FIELD=VALUE")
    for method in args.methods or methods.names():
        for epoch in sorted(map(int, args.epochs.split(","))):
            measured(method, epoch, args.seed, flags, args.data, args.runs)
            write_table()


if __name__ == "__main__":
    main()
