"""Time and memory to the first update: `python benchmarks/startup.py [--data=PATH] [METHOD ...]`.

For the `cifar10_small` preset of every method, or of those named, the command line of a user runs twice in a process of
its own, for one update without evaluation: with an empty compilation cache, and again with what the first run left
there. Seconds are of the whole command: Python, imports, data, compilation, the update and its checkpoint; what the
second run saves is compilation. Peak memory is of the first run's process, compiler included. Prints a Markdown table.
"""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ssl_jax import methods

ROOT = pathlib.Path(__file__).resolve().parents[1]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak GiB of a command; ends with its output where it fails."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise SystemExit(output.read() + f"{' '.join(command)} ended with {child.returncode}")
    return seconds, usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--data", metavar="PATH", help="CIFAR-10: folder or tar with train/CLASS and test/CLASS")
    args = parser.parse_args()
    print("| method | cold, s | warm, s | peak GiB |\n| --- | --- | --- | --- |")
    for method in args.methods or methods.names():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "ssl_jax.main", f"--config=configs/{method}.py:cifar10_small"]
            # Just over as many images as a batch has, of ten classes: an epoch is an update.
            batch = importlib.import_module(f"configs.{method}").get_config("cifar10_small").batch_size
            command += ["--config.epochs=1", f"--config.data.per_class={batch // 10 + 1}"]
            command.append("--config.run.eval_epochs=0.0")
            if args.data:
                command.append(f"--config.data.source=folder:{args.data}")
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/programs"}
            cold, peak = timed([*command, f"--workdir={folder}/cold"], environment)
            warm, _ = timed([*command, f"--workdir={folder}/warm"], environment)
        print(f"| {method} | {cold:.1f} | {warm:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
