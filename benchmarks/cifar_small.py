"""How good are the features of every method after the same few epochs on CIFAR-10?

    python benchmarks/cifar_small.py --data=PATH [--epochs=5,20] [METHOD ...]

Trains the `cifar10_small` preset of every method (or of those named; multitask takes its tasks as
`multitask+colorization+context_prediction`) and measures it after 5 epochs of the schedule, or after each of --epochs:
the method's own measure on held-out images, kNN, a linear probe of each residual stage and few labels, each beside the
untrained backbone. Fields of the config may follow (--config.FIELD=VALUE). Every row is a line of
docs/cifar_small.jsonl and is measured no second time; docs/results.md has the tables. A run that was interrupted
resumes from its last checkpoint in the folder --runs.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

import jax
import joblib
import record
import results
from results import ROWS, rows

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ssl_jax.methods import build

ROOT = pathlib.Path(__file__).resolve().parents[1]
EVALS = "pretext,knn,layers,few_label"
KEPT = re.compile(r"pretext/|knn/top1|layers/\d/top1|few_label/\w+/[a-z]+$")  # of the results


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
    found = json.loads((workdir / "results.json").read_text())
    curve = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    device = jax.devices()[0].device_kind
    row = key | {
        **record.circumstances(),
        "device": f"{joblib.cpu_count()} CPU core(s)" if device == "cpu" else f"{jax.device_count()} x {device}",
        "jax": jax.__version__,
        "data": pathlib.Path(data).name if data else "cifar10",
        "minutes": round(seconds / 60, 1),
        "knn_online": {f"{entry['epoch']:g}": entry["knn/top1"] for entry in curve if "knn/top1" in entry},
        "results": {n: round(x, 4) for n, x in found.items() if KEPT.match(n) and isinstance(x, float)},
    }
    row["results"]["measures"] = {n: told for n, told in found["measures"].items() if n in row["results"]}
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")


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
            results.write()


if __name__ == "__main__":
    main()
