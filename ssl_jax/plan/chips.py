"""What chips can do, and the devices of slices that are not there."""

from collections.abc import Iterator
import contextlib
import dataclasses
import math
import os
import re
from typing import Any

import jax

from ssl_jax.runtime.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip, from its maker's data sheet."""

    flops: float  # a second, bfloat16 matrix products with float32 sums
    bytes: float  # a second, to and from its main memory
    link: float  # bytes a second that all its links together send to other chips
    memory: float  # bytes


# By the device kind that JAX reports. TPU: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. GPU: NVIDIA's data sheets
# (dense bfloat16). Links count one direction, half of what is called bidirectional there.
CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 300e9, 32 * GIB),
    "TPU v5 lite": Chip(197e12, 819e9, 200e9, 16 * GIB),
    "TPU v5": Chip(459e12, 2765e9, 600e9, 95 * GIB),
    "TPU v6 lite": Chip(918e12, 1638e9, 400e9, 32 * GIB),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1555e9, 300e9, 40e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 300e9, 80e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 450e9, 80e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 450e9, 141e9),
}


def find_devices(topology: str) -> list[jax.Device]:
    """The devices of this machine for 'local', or those of a TPU slice that need not exist.

    Raises:
      UserError: libtpu is not installed, or does not know the slice.
    """
    if topology == "local":
        return jax.devices()
    from jax.experimental import topologies

    generation, _, shape = topology.partition(":")
    # Two cores of a v4 chip are one device to JAX on real machines, and slices of one chip are machines of their own.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if math.prod(int(side) for side in re.findall(r"\d+", shape)) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        with _described_machine():
            return list(topologies.get_topology_desc(topology, platform="tpu", **options).devices)
    except Exception as error:  # libtpu reports both in a RuntimeError or a JaxRuntimeError
        words = " ".join(str(error).split())
        if "libtpu" in words.lower() or "unable to initialize backend" in words.lower():
            raise UserError("Planning for a TPU needs its compiler: pip install -e .[plan].") from error
        raise UserError(
            f"There is no TPU slice '{topology}' ({words[:200]}): write generation:shape, such as v5e:4x4, v4:2x2x2 "
            "or v6e:4x4."
        ) from error


# What libtpu asks of the machine when it starts. Without answers it prints errors, though planning needs none of them:
# a slice's devices are the same whatever stands here.
_MACHINE = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no server of Google's cloud to ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nor a TPU that only one process may hold
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@contextlib.contextmanager
def _described_machine() -> Iterator[None]:
    """Sets what is missing in the environment for libtpu's start, and takes it back: elsewhere it means a real TPU."""
    missing = {name: value for name, value in _MACHINE.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
