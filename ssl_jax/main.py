"""Pretrains a backbone, or resumes a run.

  ssl_jax train simclr:cifar10 runs/a
  python -m ssl_jax.main --config=simclr:cifar10 --workdir=runs/a       the same, with the names of both arguments

  --config=METHOD:PRESET              METHOD as `ssl_jax methods` lists them, or the dotted path of a module of your
                                      own; PRESET picks data set and size: digits, fashion_mnist, cifar10,
                                      cifar10_small, imagenet (`ssl_jax presets METHOD`)
  --config=FILE.py:PRESET             a config file, as configs/simclr.py:cifar10
  --config.FIELD=VALUE                changes any field; `ssl_jax config METHOD:PRESET` lists them,
                                      ssl_jax/recipes/base.py and the method's class explain them.
                                      For example --config.batch_size=512 --config.data.source=folder:my_images
  --workdir=FOLDER                    for checkpoints, logs and results; made if absent; gs://BUCKET/FOLDER with
                                      pip install -e .[gcs]
  --coordinator=HOST:PORT --processes=N --process=I
                                      number I of N processes of one run, where JAX cannot tell by itself (it can on
                                      a TPU slice, in a Slurm step and in an indexed Kubernetes job)

The same command resumes a run that was stopped. Then: ssl_jax evaluate FOLDER
Exit status: 0 done, 2 a mistake in the command, the config or the data, 3 the loss became NaN, 75 stopped and resumable
(a signal came, or another process of the run was lost).
"""

import sys

from absl import flags

from ssl_jax import command_line
from ssl_jax.runtime import compile_cache, equality, malloc, processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.train import NotFinite, Stopped, train
from ssl_jax.workdir.log import speak_plainly

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs and results; made if absent.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Processes of the run.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process.", lower_bound=0)


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    try:
        config = command_line.parse(argv, "workdir")
        processes.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        train(config, _WORKDIR.value or "")
    except (UserError, NotFinite, equality.Diverged) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 3 if isinstance(error, NotFinite) else 1
    except KeyboardInterrupt:
        print("Interrupted; the same command starts again from the last checkpoint.", file=sys.stderr)
        return processes.RESUMABLE
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return processes.RESUMABLE
    return 0


if __name__ == "__main__":
    malloc.keep()
    compile_cache.keep()
    processes.run(main)
