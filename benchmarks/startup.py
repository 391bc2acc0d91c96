"""How long does a command take, and how much memory, to its first update?

    python benchmarks/startup.py [--data=PATH] [--batch=N] [METHOD ...]

For the `cifar10_small` preset of every method, or of those named, the command line of a user runs twice in a process of
its own, for one update without evaluation: with an empty compilation cache, and again with what the first run left
there. Seconds are from the command to the report of that update: Python, imports, data, compilation and the update;
what the second run saves is compilation. Peak memory is of the whole first run, compiler and checkpoint included, in
the process and, on an accelerator, not what lies on the device (`python -m ssl_jax.plan --topology=local` tells that).
A first run that is not timed decodes the images for all. Prints a Markdown table.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import record

from ssl_jax.methods import build
from ssl_jax.recipes import get_config

ROOT = pathlib.Path(__file__).resolve().parents[1]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first update and peak GiB of a command; ends with its output where it fails."""
    start, seconds, output = time.perf_counter(), 0.0, []
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        output.append(line)
        if line.startswith("step ") and not seconds:
            seconds = time.perf_counter() - start
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or not seconds:
        raise SystemExit("".join(output) + f"{' '.join(command)} ended with {child.returncode}")
    return seconds, usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--data", metavar="PATH", help="CIFAR-10: folder or tar with train/CLASS and test/CLASS")
    parser.add_argument("--batch", type=int, help="images an update (default: the preset's)")
    args = parser.parse_args()
    chosen = args.methods or build.names()
    with tempfile.TemporaryDirectory() as folder:
        timed(*_command(chosen[0], args, folder, "untimed"))
    print("| method | batch | cold, s | warm, s | peak GiB |\n| --- | --- | --- | --- | --- |")
    found = {}
    for method in chosen:
        with tempfile.TemporaryDirectory() as folder:
            cold, peak = timed(*_command(method, args, folder, "cold"))
            warm, _ = timed(*_command(method, args, folder, "warm"))
        print(f"| {method} | {_batch(method, args)} | {cold:.1f} | {warm:.1f} | {peak:.2f} |", flush=True)
        found[method] = {"cold, s": round(cold, 1), "warm, s": round(warm, 1), "peak, GiB": round(peak, 2)}
    record.add(found, data=args.data and pathlib.Path(args.data).name, batch=args.batch)
    print(f"\n{record.told()}")


def _batch(method: str, args: argparse.Namespace) -> int:
    return args.batch or get_config(method, "cifar10_small").batch_size


def _command(method: str, args: argparse.Namespace, folder: str, workdir: str) -> tuple[list[str], dict[str, str]]:
    """The command line for one update, and its environment."""
    batch = _batch(method, args)
    command = [sys.executable, "-m", "ssl_jax.main", f"--config=configs/{method}.py:cifar10_small"]
    # Just over as many images as a batch has, of ten classes: an epoch is an update.
    command += ["--config.epochs=1", f"--config.batch_size={batch}", f"--config.data.per_class={batch // 10 + 1}"]
    command += ["--config.run.eval_epochs=0.0", f"--workdir={folder}/{workdir}"]
    if args.data:
        command.append(f"--config.data.source=folder:{args.data}")
    return command, {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/programs"}


if __name__ == "__main__":
    main()
