"""Sizes a run before it is paid for: `python -m ssl_jax.plan --config=simclr:imagenet --topology=v5e:4x4`.

Compiles the real training step for a TPU slice that need not be there (the TPU compiler runs on any machine with the
package libtpu) and says whether it fits, what it moves and computes a view, and how long it takes at best. Several
topologies, separated by commas, make a table. `--topology=local` plans for the devices of this machine.

  --config=METHOD:PRESET              as for ssl_jax.main; --config.FIELD=VALUE changes a field
  --topology=v5e:4x4,v4:2x2x2         generation and shape of slices; or local
  --efficiency=0.7                    share of the bounding rate that is assumed to be reached
  --images=N                          training images, of a data set that is not on this machine
  --json=FILE                         appends a line a topology
"""

import json
import pathlib
import sys
from typing import Any

from absl import flags

from ssl_jax import command_line
from ssl_jax.plan.plan import plan
from ssl_jax.plan.words import describe, summarise
from ssl_jax.runtime.errors import UserError, explained
from ssl_jax.workdir.log import speak_plainly

_TOPOLOGY = flags.DEFINE_list("topology", "local", "Slices such as v5e:4x4, separated by commas, or local.")
_EFFICIENCY = flags.DEFINE_float("efficiency", 0.7, "Share of the bounding rate that is assumed to be reached.")
_IMAGES = flags.DEFINE_integer("images", None, "Training images, of a data set that is not on this machine.")
_JSON = flags.DEFINE_string("json", None, "File to which a line a topology is appended.")


@explained
def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    config = command_line.parse(argv)
    if not 0 < _EFFICIENCY.value <= 1:
        raise UserError(f"--efficiency is {_EFFICIENCY.value}: it is a share, more than 0 and at most 1.")
    if _JSON.value:
        try:
            pathlib.Path(_JSON.value).open("a").close()
        except OSError as error:
            raise UserError(
                f"--json={_JSON.value} cannot be written ({error.strerror}): choose another file."
            ) from error
    rows: list[dict[str, Any]] = []
    try:
        for topology in _TOPOLOGY.value:
            print(f"Compiling for {topology}; a large network takes minutes.", file=sys.stderr)
            rows.append(summarise(plan(config, topology, _IMAGES.value), _EFFICIENCY.value))
            if _JSON.value:
                with pathlib.Path(_JSON.value).open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    finally:  # what was compiled for minutes is not lost by a mistake in the next one
        if rows:
            print(describe(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
