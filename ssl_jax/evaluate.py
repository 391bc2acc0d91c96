"""Measures what a pretrained backbone is worth: `ssl_jax evaluate runs/a`.

Reads the newest checkpoint of a finished or a running run, extracts the features of its data set (or of another,
--data) once, from the trained backbone and from the same one untrained, and prints and stores a table for each
evaluation, a file of ssl_jax/evals. Results go to results.json in the workdir, under flat names such as knn/top1 and
knn/top1_untrained, and its part `measures` says what each is; features are kept in its folder features/. Numbers of
neighbours, epochs and draws are those of the run's config.eval, or of --config.eval.FIELD=VALUE, as
--config.eval.knn_k=20. On several machines it is started on each of them, like ssl_jax.main; the first one prints and
writes.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import re
import sys
from typing import Any

from ssl_jax import command_line
from ssl_jax.evals.find import evaluations
from ssl_jax.evals.run import On, Settings, evaluate, extract, restore
from ssl_jax.runtime import compile_cache, malloc, modules, processes
from ssl_jax.runtime.errors import UserError, explained
from ssl_jax.workdir.config import load as load_config
from ssl_jax.workdir.log import speak_plainly

__all__ = ["On", "Settings", "evaluate", "extract", "load_config", "main", "restore"]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl_jax evaluate",
        usage="ssl_jax evaluate WORKDIR [--evals=NAME,...] [--data=SOURCE] [FLAG ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Callable[..., Any] = parser.add_argument
    add(
        "--workdir",
        required=True,
        help="folder of the run (also first argument); with --backbone, of the results",
    )
    add("--backbone", help="evaluate this file of ssl_jax.export instead of a run, on --data")
    add("--evals", help=f"some of {','.join(evaluations())} (default: all but fine_tune; `ssl_jax evals` lists them)")
    add("--data", help="evaluate on this data set: digits, cifar10, folder:PATH, tfds:NAME ... (default: the run's)")
    add("--data_path", help="where to look for it or for the run's own, as config.data.path")
    add("--classes", type=_numbers, default=(), help="evaluate on these classes only, for example 5,6,7,8,9")
    add("--supervised", help="folder of a run of the method supervised, to compare with")
    add("--fine_tune_epochs", type=int, help="passes over the labelled images (default: few; see evals/fine_tune.py)")
    add(
        "--frozen",
        type=_numbers,
        default=(),
        help="also fine-tune behind so many copied stages, for example 1,2,3",
    )
    return parser


def _settings(flags: Sequence[str]) -> dict[str, str]:
    """What flags of the form --config.eval.FIELD=VALUE say."""
    found = {}
    for flag in flags:
        match = re.fullmatch(r"--config\.eval\.(\w+)=(.+)", flag)
        if match is None:
            raise UserError(
                f"{flag} means nothing to ssl_jax evaluate: see --help; of the config, only --config.eval.FIELD=VALUE "
                "may differ from the run's."
            )
        found[match[1]] = match[2]
    return found


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    argv = command_line.with_names(sys.argv[1:] if argv is None else argv, "workdir")
    args, flags = _parser().parse_known_args(argv)
    settings = _settings(flags)
    processes.start()
    if not processes.first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the end of the process)
    evaluate(
        args.workdir,
        tuple(args.evals.split(",")) if args.evals else None,
        On(args.backbone, args.data, args.data_path, args.classes, args.supervised),
        Settings(args.fine_tune_epochs, args.frozen, settings),
    )
    return 0


modules.make_callable(__name__, evaluate)

if __name__ == "__main__":
    malloc.keep()
    compile_cache.keep()
    processes.run(lambda argv: main(argv[1:]))
