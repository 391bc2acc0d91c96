"""All methods on one footing: `python benchmarks/cifar_small.py --data=PATH [--epochs=5,20] [METHOD ...]`.

Trains the `cifar10_small` preset of every method (or of those named; multitask takes its tasks as
`multitask+colorization+context_prediction`) and measures it after 5 epochs of the schedule, or after each of --epochs:
the method's own measure on held-out images, kNN, a linear probe of each residual stage and few labels, each beside the
untrained backbone. Fields of the config may follow (--config.FIELD=VALUE). Every row is a line of
docs/cifar_small.jsonl and is measured no second time; the table is the README's. A run that was interrupted goes on
from its last checkpoint in the folder --runs.
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

from ssl_jax.methods import build
from ssl_jax.workdir import results as stored

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROWS, README = ROOT / "docs" / "cifar_small.jsonl", ROOT / "README.md"
EVALS = "pretext,knn,layers,few_label"
KEPT = re.compile(r"pretext/|knn/top1|layers/\d/top1|few_label/\w+/[a-z]+$")  # of the results
BEGIN, END = "<!-- python benchmarks/cifar_small.py writes from here -->\n", "<!-- to here -->\n"


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
        print(f"{method} with seed {seed} after {epoch} epochs is in {ROWS} already.")
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
    row["results"]["measures"] = {n: told for n, told in results["measures"].items() if n in row["results"]}
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def table(measured: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of a Markdown table, with what any of them says of raw pixels as the first."""
    head = ["method", "epochs", "kNN", *(f"stage {n}" for n in (1, 2, 3, 4)), "1 label", "10 labels"]
    head += ["its own measure", "minutes", "seed", "commit"]
    lines = [head, ["---"] * len(head)]

    def percent(results: dict[str, float], name: str, before: str) -> str:
        return f"{100 * results[name]:.1f} ({100 * results[before]:.1f})"

    if measured:
        r = measured[0]["results"]
        numbers = [f"{100 * r[f'few_label/{count}/pixels']:.1f}" for count in (1, 10)]
        lines.append(["raw pixels", "", f"{100 * r['knn/top1_pixels']:.1f}", *[""] * 4, *numbers, *[""] * 4])
    for row in sorted(measured, key=lambda row: (row["epoch"], row["method"], row["seed"], row["flags"])):
        r = row["results"]
        names = ["knn/top1", *(f"layers/{n}/top1" for n in (1, 2, 3, 4))]
        few = [f"few_label/{count}/" for count in (1, 10)]
        cells = [", ".join([row["method"], *row["flags"]]), str(row["epoch"])]
        cells += [percent(r, name, f"{name}_untrained") for name in names]
        cells += [percent(r, f"{name}pretrained", f"{name}untrained") for name in few]
        lines.append([*cells, own_measure(r), str(row["minutes"]), str(row["seed"]), row["commit"]])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def write_table() -> None:
    """Puts the table into the README, in place of the one that is there."""
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    README.write_text(before + BEGIN + "".join(line + "\n" for line in table(rows())) + END + after)


def own_measure(results: dict[str, Any]) -> str:
    """What the method's own task gives that has an answer by chance, beside that and the untrained network's."""
    found = {(r.measure, r.of): r for r in stored.numbers(results) if r.measure.startswith("pretext/")}
    told = []
    for (measure, of), r in found.items():
        if of != "pretrained" or r.chance is None or measure == "pretext/loss":
            continue
        name, untrained = measure.removeprefix("pretext/"), found[measure, "untrained"].value
        told.append(f"{name} {r.value:.3g} (untrained {untrained:.3g}, chance {r.chance:.3g})")
        if name.endswith("_mse"):
            told[-1] += f", {10 * np.log10(r.chance / r.value):+.2f} dB over a mean fill"
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
    for method in args.methods or build.names():
        for epoch in sorted(map(int, args.epochs.split(","))):
            measured(method, epoch, args.seed, flags, args.data, args.runs)
            write_table()


if __name__ == "__main__":
    main()
