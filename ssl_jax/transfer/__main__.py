"""What transfers to what: `ssl_jax transfer OUT RUN RUN ... --data=scenes`.

Every run's backbone is frozen, and a small decoder learns each task that the data have: class labels, few labels,
segmentation, depth, normals, boundaries, camera motion, and pretext tasks of the images. All decoders have the same
images and updates. Writes win rates and affinities as transfer.json and as a page, transfer.html.
"""

import argparse
from collections.abc import Callable
import dataclasses
import sys
from typing import Any

from ssl_jax.runtime import compile_cache, malloc, processes
from ssl_jax.runtime.errors import explained
from ssl_jax.transfer import Budget, transfer
from ssl_jax.workdir.log import speak_plainly


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl_jax transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("out", help="folder for the results")
    add("runs", nargs="+", help="folders of runs, the rows of the matrix; the first one untrained is another")
    add("--data", help="data set of the tasks, such as scenes or camvid:PATH (default: the first run's)")
    add("--data_path", help="where to look for it, as config.data.path")
    add("--targets", help="some of the tasks, with commas between (default: all that the data have)")
    for field in dataclasses.fields(Budget):
        add(f"--{field.name}", type=int, default=field.default, help=f"of every decoder (default: {field.default})")
    return parser


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    budget = Budget(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Budget)})
    wanted = tuple(args.targets.split(",")) if args.targets else ()
    transfer(args.out, *args.runs, data=args.data, path=args.data_path, wanted=wanted, budget=budget)
    return 0


if __name__ == "__main__":
    malloc.keep()
    compile_cache.keep()
    processes.run(lambda argv: main(argv[1:]))
