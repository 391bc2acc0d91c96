"""Pretrains a backbone.

  python -m ssl_jax.main --config=configs/simclr.py:cifar10 --workdir=runs/a

  --config=configs/METHOD.py:PRESET   METHOD is a file in configs/; PRESET picks data set and size: digits,
                                      fashion_mnist, cifar10, cifar10_small, imagenet
  --config.FIELD=VALUE                changes any field; configs/common.py and the method's class explain them.
                                      For example --config.batch_size=512 --config.data.source=folder:my_images
  --workdir=FOLDER                    for checkpoints, logs and results; made if absent

The same command resumes a run that was stopped. Then: python -m ssl_jax.evaluate --workdir=FOLDER
Exit status: 0 done, 2 a mistake to put right, 3 the loss became NaN, 75 stopped by a signal and resumable.
"""

import sys

from absl import flags

from ssl_jax import command_line, train
from ssl_jax.errors import UserError
from ssl_jax.log import speak_plainly

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs and results; made if absent.")


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    try:
        train.train(command_line.parse(argv, "workdir"), _WORKDIR.value or "")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
