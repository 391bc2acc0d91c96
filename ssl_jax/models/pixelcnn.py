"""Masked convolutions over a grid, where each row sees itself and the rows above, and what CPC predicts by them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PixelCNN(nn.Module):
    """Residual blocks of 1x1, 1x3 and, padded at the top only, 2x1 convolutions; CPC v2 (arXiv 1905.09272), App.

    Attributes:
      blocks: number of residual blocks; each lets a row see one row further up.
      hidden: channels inside a block.
      dtype: type that is computed in.
    """

    blocks: int = 5
    hidden: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # [B, rows, columns, D] -> the same
        def conv(x, name, features, kernel, padding=((0, 0), (0, 0))):
            return nn.Conv(features, kernel, padding=padding, dtype=self.dtype, name=name)(x)

        width = x.shape[-1]
        for i in range(self.blocks):
            y = nn.relu(conv(x, f"block{i + 1}_in", self.hidden, (1, 1)))
            y = conv(y, f"block{i + 1}_row", self.hidden, (1, 3), ((0, 0), (1, 1)))
            y = nn.relu(conv(y, f"block{i + 1}_above", self.hidden, (2, 1), ((1, 0), (0, 0))))
            x = x + conv(y, f"block{i + 1}_out", width, (1, 1))
        return nn.relu(x)


class Predictor(nn.Module):
    """Context network, projection of the targets and one prediction a row ahead."""

    blocks: int
    hidden: int
    out: int
    steps: int
    dtype: Any

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[B, R, C, D] to targets [B, R, C, d] and predictions [steps, B, R, C, d]."""
        context = PixelCNN(self.blocks, self.hidden, self.dtype, name="context")(z)
        targets = nn.Dense(self.out, dtype=self.dtype, name="target")(z)
        ahead = [nn.Dense(self.out, dtype=self.dtype, name=f"ahead{k + 1}")(context) for k in range(self.steps)]
        return targets, 0.1 * jnp.stack(ahead)
