"""Initialises and applies the parts of a network, with their running statistics."""

from collections.abc import Iterator
import contextlib
import contextvars
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Encoded

# Variables that `initialise` gives every part called 'backbone', instead of fresh ones.
_given: contextvars.ContextVar[Any] = contextvars.ContextVar("given", default=None)


def apply(
    module: nn.Module, name: str, params: Any, stats: Any, x: jax.Array, *, train: bool, **options: Any
) -> tuple[jax.Array, Any]:
    """Runs one part of a network and moves its running statistics.

    Args:
      module: the part.
      name: its place in `params` and `stats`.
      params: parameters of all parts, by name.
      stats: running statistics of all parts, by name.
      x: input.
      train: use the statistics of the batch.
      **options: further arguments of the part.

    Returns:
      output, and `stats` with this part's entry moved on.
    """
    variables = {"params": params[name], "batch_stats": stats.get(name, {})}
    out: Any
    if not train:
        out = module.apply(variables, x, train=False, **options)
        return out, stats
    out, moved = module.apply(variables, x, train=True, mutable=["batch_stats"], **options)
    return out, {**stats, name: moved.get("batch_stats", {})}


def initialise(parts: dict[str, nn.Module], rng: jax.Array, x: jax.Array, **options: Any) -> tuple[Any, Any]:
    """Initialises a chain of parts, each fed with the output of the one before.

    Args:
      parts: name to module, in order; the first takes `x`.
      rng: a key.
      x: input of the first part.
      **options: further arguments of the first part.

    Returns:
      parameters and running statistics, each a dict by part name.
    """
    params, stats = {}, {}
    for i, (name, module) in enumerate(parts.items()):
        x, variables = module.init_with_output(jax.random.fold_in(rng, i), x, train=True, **({} if i else options))
        if name == "backbone" and _given.get() is not None:
            variables = _given.get()
        params[name], stats[name] = variables["params"], variables.get("batch_stats", {})
    return params, stats


@contextlib.contextmanager
def starting_from(variables: Any) -> Iterator[None]:
    """Within it `initialise` gives each backbone these weights, so that a method's teachers start from them too.

    Args:
      variables: 'params' and 'batch_stats' of a backbone; None: all start anew.
    """
    token = _given.set(variables)
    try:
        yield
    finally:
        _given.reset(token)


def encode(
    module: nn.Module, variables: Any, x: jax.Array, *, train: bool, stage: float | None, frozen: int
) -> tuple[Encoded, Any]:
    """Runs a backbone on images.

    Args:
      module: the backbone.
      variables: its 'params' and 'batch_stats'.
      x: normalised images [B, H, W, C].
      train: use the statistics of the batch.
      stage: whose output is wanted, from 1; None: the last.
      frozen: so many stages get no gradient and keep their running statistics.

    Returns:
      its output and the variables, whose 'batch_stats' have moved on if `train`.
    """
    options: dict[str, Any] = {"stage": stage, "frozen": frozen, "pool": None}
    out: Any
    if not train:
        out = module.apply(variables, x, train=False, **options)
    else:
        out, moved = module.apply(variables, x, train=True, mutable=["batch_stats"], **options)
        variables = {**variables, "batch_stats": moved.get("batch_stats", {})}
    return Encoded(out.pooled.astype(jnp.float32), out.map), variables
