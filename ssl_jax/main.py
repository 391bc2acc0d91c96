"""Pretrains a backbone: `python -m ssl_jax.main --config=configs/simclr.py:cifar10 --workdir=runs/a`.

The part of --config after the colon picks the data set and size preset; any field of the config can be changed with
--config.FIELD=VALUE, for example --config.batch_size=512 or --config.data.source=folder:my_images. The same command
resumes a run that was stopped. Exit status: 0 done, 2 a mistake to put right, 3 the loss became NaN, 75 stopped by a
signal and resumable.
"""

import sys

from absl import flags
from ml_collections import config_flags

from ssl_jax import train
from ssl_jax.errors import UserError
from ssl_jax.log import speak_plainly

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/METHOD.py:PRESET", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs and results; made if absent.")


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    try:
        flags.FLAGS(argv)
        if _CONFIG.value is None or not _WORKDIR.value:
            raise UserError("--config=configs/METHOD.py:PRESET and --workdir=FOLDER are needed; --help explains them.")
        train.train(_CONFIG.value, _WORKDIR.value)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except train.NotFinite as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3
    except train.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
