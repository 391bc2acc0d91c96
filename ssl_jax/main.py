"""Pretrains a backbone.

  python -m ssl_jax.main --config=configs/simclr.py:cifar10 --workdir=runs/a

  --config=configs/METHOD.py:PRESET   METHOD is a file in configs/ (simclr, byol, rotation); PRESET picks data set and
                                      size: digits, fashion_mnist, cifar10, cifar10_small, imagenet
  --config.FIELD=VALUE                changes any field; configs/common.py and the method's class explain them.
                                      For example --config.batch_size=512 --config.data.source=folder:my_images
  --workdir=FOLDER                    for checkpoints, logs and results; made if absent

The same command resumes a run that was stopped. Then: python -m ssl_jax.evaluate --workdir=FOLDER
Exit status: 0 done, 2 a mistake to put right, 3 the loss became NaN, 75 stopped by a signal and resumable.
"""

import pathlib
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from ssl_jax import train
from ssl_jax.errors import UserError, nearest
from ssl_jax.log import speak_plainly

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/METHOD.py:PRESET", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs and results; made if absent.")


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    try:
        train.train(_parse(argv), _WORKDIR.value or "")
    except (UserError, train.NotFinite) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 3
    except KeyboardInterrupt:
        print("Interrupted; the same command starts again from the last checkpoint.", file=sys.stderr)
        return 75
    except train.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75
    return 0


def _parse(argv: list[str]) -> Any:
    """Reads the flags; what absl and ml_collections raise becomes one sentence."""
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
    if _CONFIG.value is None or not _WORKDIR.value:
        raise UserError("--config=configs/METHOD.py:PRESET and --workdir=FOLDER are needed. See --help.")
    return _CONFIG.value


if __name__ == "__main__":
    sys.exit(main(sys.argv))
