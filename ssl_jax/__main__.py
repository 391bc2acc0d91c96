"""Self-supervised learning of image representations: `ssl_jax COMMAND ...`, or `python -m ssl_jax COMMAND ...`."""

from collections.abc import Callable
import inspect
import os
import runpy
import sys

import ssl_jax
from ssl_jax.runtime.errors import UserError, explained, nearest

# Programs of their own: `ssl_jax train` is `python -m ssl_jax.main`.
PROGRAMS = {
    "train": ("ssl_jax.main", "pretrains a backbone, or resumes a run"),
    "evaluate": ("ssl_jax.evaluate", "measures what a pretrained backbone is worth"),
    "report": ("ssl_jax.report", "draws runs as one HTML page"),
    "embed": ("ssl_jax.embed", "writes the features of images to a file"),
    "export": ("ssl_jax.export", "exports a backbone, or imports one of another project"),
    "transfer": ("ssl_jax.transfer", "measures which of several runs transfers to which task"),
    "plan": ("ssl_jax.plan", "sizes a run for a TPU slice before it is paid for"),
}


def methods() -> int:
    """Prints the methods by family, each with the first line of its module."""
    from ssl_jax.methods import build  # here, as below, so that --version and --help stay light

    for family, names in build.families().items():
        print(f"{family}")
        for name in names:
            module = inspect.getmodule(build.find(name))
            print(f"  {name:22} {(inspect.getdoc(module) or '').splitlines()[0]}")
    return 0


def presets(*names: str) -> int:
    """Prints the presets of methods, by default of all, with their source and the published results."""
    from ssl_jax.methods import build
    from ssl_jax.recipes import table

    print(table.text(list(names) or build.names()))
    return 0


def evals() -> int:
    """Prints the evaluations, each with the first line of its module, and what it needs of the data."""
    from ssl_jax.evals.find import evaluations

    for name, module in evaluations().items():
        needs = ", ".join(sorted(module.NEEDS))
        words = (inspect.getdoc(module) or "").splitlines()[0]
        unasked = "" if module.DEFAULT else " Only where it is named."
        print(f"{name:13} {words}{f' Needs {needs}.' if needs else ''}{unasked}")
    return 0


def config(*arguments: str) -> int:
    """Prints the fields of a config, as they are written on the command line; with --diff those that are no default."""
    from ssl_jax import command_line
    from ssl_jax.recipes import base

    given = [a for a in arguments if a != "--diff"]
    made = command_line.parse(["ssl_jax", *given])
    default = base.fields()
    default.method = base.method_fields(made.method.name)
    defaults = command_line.fields(default) if len(given) < len(arguments) else {}
    for name, value in sorted(command_line.fields(made).items()):
        if name not in defaults or defaults[name] != value:
            print(f"--config.{name}={value}")
    return 0


ANSWERS: dict[str, tuple[Callable[..., int], str]] = {
    "methods": (methods, "lists the methods by family"),
    "presets": (presets, "lists the presets of METHOD, or of all, with source and published results"),
    "evals": (evals, "lists the evaluations"),
    "config": (config, "prints the config METHOD:PRESET; --diff: what differs from the defaults"),
}


def usage() -> str:
    """What there is."""
    commands = {name: words for name, (_, words) in (PROGRAMS | ANSWERS).items()}
    lines = "\n".join(f"  {name:10} {words}" for name, words in commands.items())
    return (
        f"{__doc__}\n\n{lines}\n\n"
        "  ssl_jax train simclr:digits runs/a    and `ssl_jax COMMAND --help` for more.\n"
        "  ssl_jax --version"
    )


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    Args:
      argv: command and its arguments; None for those of this process.
    """
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("--help", "-h", "help"):
        print(usage())
        return 0
    if command == "--version":
        print(ssl_jax.__version__)
        return 0
    if command not in PROGRAMS | ANSWERS:
        raise UserError(f"There is no command '{command}'. {nearest(command, PROGRAMS | ANSWERS)} See ssl_jax --help.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for a method or a config of the user's own, as `python -m` does
    if command in ANSWERS:
        if {"--help", "-h"} & set(arguments):
            print(f"ssl_jax {command}: {ANSWERS[command][1]}.")
            return 0
        return _answer(ANSWERS[command][0], arguments)
    module = PROGRAMS[command][0]
    sys.argv = [f"ssl_jax {command}", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _answer(command: Callable[..., int], arguments: list[str]) -> int:
    """What a command that only prints returns; its reader may have seen enough, as `head` has."""
    try:
        inspect.signature(command).bind(*arguments)
    except TypeError as error:
        raise UserError(f"ssl_jax {command.__name__} does not take {' '.join(arguments)}: see its --help.") from error
    try:
        status = command(*arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
