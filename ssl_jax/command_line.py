"""Reads `--config=configs/METHOD.py:PRESET`, `--config.FIELD=VALUE` and a program's other absl flags."""

import itertools
import pathlib
import re
import runpy
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ssl_jax.runtime.errors import UserError, nearest

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/METHOD.py:PRESET", lock_config=True)


def parse(argv: list[str], *needed: str) -> Any:
    """Parses the command line, and returns the config.

    Args:
      argv: with the program's name first.
      *needed: flags without which the program cannot run, beside --config.

    Raises:
      UserError: what absl and ml_collections raise, in one sentence.
    """
    _check_files(argv)
    try:
        rest = flags.FLAGS(argv)[1:]
    except (flags.Error, AttributeError, KeyError, OSError, SyntaxError, TypeError, ValueError) as error:
        _explain_field(argv)
        cause: Any = error
        while isinstance(cause, BaseException) and cause.args:  # ml_collections wraps one error in another
            cause = cause.args[0]
        words = " ".join(str(cause).split())
        raise UserError(f"A flag cannot be read: {words}") from error
    if rest:
        raise UserError(f"'{rest[0]}' is no flag: write --config.FIELD=VALUE. See --help.")
    if _CONFIG.value is None or not all(flags.FLAGS[name].value for name in needed):
        wanted = ["--config=configs/METHOD.py:PRESET", *(f"--{name}=..." for name in needed)]
        raise UserError(f"{' and '.join(wanted)} {'are' if needed else 'is'} needed. See --help.")
    return _CONFIG.value


def _config_files(argv: list[str]) -> list[tuple[pathlib.Path, str]]:
    """The files and presets that are given, as --config=FILE:PRESET or --config FILE:PRESET."""
    given = [a.split("=", 1)[1] for a in argv if a.startswith(("--config=", "-config="))]
    given += [value for flag, value in itertools.pairwise(argv) if flag in ("--config", "-config")]
    return [(pathlib.Path(file), preset) for file, _, preset in (value.partition(":") for value in given)]


def _check_files(argv: list[str]) -> None:
    for file, _ in _config_files(argv):
        if not file.is_file():
            known = [str(p) for p in pathlib.Path("configs/").glob("*.py") if p.stem not in ("common", "__init__")]
            hint = nearest(str(file), known) if known else "Start in the folder that has configs/, or give a full path."
            raise UserError(f"There is no config file {file}, looked for in {pathlib.Path.cwd()}. {hint}")
        if "def get_config(preset" not in file.read_text(errors="replace"):
            raise UserError(f"{file} is no config of a method: it has no function get_config(preset).")


def _explain_field(argv: list[str]) -> None:
    """Raises a `UserError` for the first --config.FIELD that the config does not have, if there is one."""
    named = [match[1].split(".") for match in (re.match(r"--?config\.([\w.]+)", a) for a in argv) if match]
    files = _config_files(argv)
    if not named or not files:
        return
    file, preset = files[-1]
    config = runpy.run_path(str(file))["get_config"](*[preset] if preset else [])
    for names in named:
        level: Any = config
        for depth, name in enumerate(names, 1):
            if not isinstance(level, ConfigDict):
                raise UserError(f"config.{'.'.join(names[: depth - 1])} is a value, no group of fields: set it itself.")
            if name not in level:
                # The field of this very name in another part is meant, if there is one; else one of this part.
                same = [path for path in _fields(config) if path.split(".")[-1] == name]
                hint = f"Did you mean 'config.{same[0]}'?" if same else nearest(name, level.keys())
                raise UserError(f"There is no field config.{'.'.join(names[:depth])} in {file}. {hint}")
            level = level[name]


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
    """Full names of all fields."""
    found = []
    for name, value in config.items():
        found += _fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]
    return found
