"""The training state, and how it lies over the devices."""

from typing import Any

import flax
import jax
from jax.sharding import PartitionSpec as P

from ssl_jax.methods.contract import Method


@flax.struct.dataclass
class TrainState:
    """Everything that changes while training, in one tree."""

    step: jax.Array  # updates done, int32
    rng: jax.Array  # the run's key as raw data, constant
    params: Any  # what the optimiser moves
    state: Any  # the method's other state
    opt_state: Any
    probe: Any  # the online probe's parameters and optimiser state; empty without labels


def specs(method: Method) -> Any:
    """How each part of the training state lies over the devices."""
    return TrainState(P(), P(), P(), method.specs(), P(), P())  # type: ignore[arg-type]
