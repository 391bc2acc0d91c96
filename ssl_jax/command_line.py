"""Reads `--config=configs/METHOD.py:PRESET`, `--config.FIELD=VALUE` and a program's other absl flags."""

import pathlib
from typing import Any

from absl import flags
from ml_collections import config_flags

from ssl_jax.errors import UserError, nearest

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/METHOD.py:PRESET", lock_config=True)


def parse(argv: list[str], *needed: str) -> Any:
    """Parses the command line, and returns the config.

    Args:
      argv: with the program's name first.
      *needed: flags without which the program cannot run, beside --config.

    Raises:
      UserError: what absl and ml_collections raise, in one sentence.
    """
    given = [a.split("=", 1)[1].split(":")[0] for a in argv if a.startswith(("--config=", "-config="))]
    if given and not pathlib.Path(given[-1]).is_file():
        known = [str(p) for p in pathlib.Path("configs").glob("*.py") if p.stem not in ("common", "__init__")]
        raise UserError(f"There is no config file {given[-1]}. {nearest(given[-1], known)}")
    try:
        rest = flags.FLAGS(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
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
