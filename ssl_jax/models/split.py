"""A backbone of two halves that see different channels."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Split(nn.Module):
    """Two backbones whose outputs are concatenated; nothing passes between them.

    Attributes:
      first: of the first channel.
      second: of the others.
    """

    first: nn.Module
    second: nn.Module

    def __call__(self, x: jax.Array, *, train: bool, stage: int | None = None, pool: bool = True) -> jax.Array:
        """As a backbone: the features, or without `pool` the maps, of both, the first's first."""
        parts = ((self.first, x[..., :1]), (self.second, x[..., 1:]))
        return jnp.concatenate([half(y, train=train, stage=stage, pool=pool) for half, y in parts], -1)
