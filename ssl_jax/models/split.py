"""A backbone of two halves that see different channels."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Encoded, pooled

HALVES = ("first", "second")


class Split(nn.Module):
    """Two backbones whose outputs are concatenated; nothing passes between them.

    Attributes:
      first: of the first channel.
      second: of the others.
    """

    first: nn.Module
    second: nn.Module

    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """As a backbone, which is asked for its map; the channels of the first half come first."""
        options = {"train": train, "stage": stage, "frozen": frozen, "pool": False}
        halves = ((self.first, x[..., :1]), (self.second, x[..., 1:]))
        return pooled(jnp.concatenate([half(y, **options) for half, y in halves], -1), pool)
