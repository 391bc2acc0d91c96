"""The blocks of a transformer, as DINO, MoCo v3 and MAE have them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.gelu import gelu
from ssl_jax.models.heads import torch_uniform


class Init(NamedTuple):
    """Initialisers of the weights; biases start at zero."""

    linear: Callable[..., Any]
    qkv: Callable[..., Any]  # queries, keys and values are one matrix
    patch: Callable[..., Any]
    token: Callable[..., Any]


normal, _xavier = nn.initializers.normal(0.02), nn.initializers.xavier_uniform()
INITS = {
    # Written as a truncated normal, but its cut is at 100 standard deviations; the patches have torch's default.
    "dino": Init(normal, normal, torch_uniform, normal),
    # Xavier for each of queries, keys and values: twice the variance that their common matrix would have.
    "mocov3": Init(
        _xavier,
        nn.initializers.variance_scaling(2.0, "fan_avg", "uniform"),
        _xavier,
        nn.initializers.normal(1e-6),
    ),
    "mae": Init(_xavier, _xavier, _xavier, normal),
}


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and added to its input."""

    heads: int
    inits: Init
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, gates: jax.Array) -> jax.Array:  # [B, n, D], [B or 1, 2] -> [B, n, D]
        def dense(features, name, init=self.inits.linear):
            return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

        attend, think = gates[:, :, None, None].swapaxes(0, 1)
        width = x.shape[-1]
        y = nn.LayerNorm(1e-6, self.dtype, name="norm1")(x)
        y = dense(3 * width, "qkv", self.inits.qkv)(y).reshape(*x.shape[:2], 3, self.heads, -1)
        y = jax.nn.dot_product_attention(*jnp.moveaxis(y, 2, 0)).reshape(x.shape)
        x += attend * dense(width, "proj")(y)
        y = nn.LayerNorm(1e-6, self.dtype, name="norm2")(x)
        y = gelu(dense(4 * width, "mlp1")(y))
        return x + think * dense(width, "mlp2")(y)


def open_gates(keys: jax.Array, drop_path: float, depth: int) -> jax.Array:
    """Draws which residual branches an image passes through (stochastic depth, Huang et al. 2016).

    Args:
      keys: one key an image [B].
      drop_path: probability of skipping a branch of the last block, falling linearly to 0 at the first.
      depth: number of blocks.

    Returns:
      factors [B, depth, 2] of the branches: 0, or one over the probability of passing.
    """
    keep = 1 - drop_path * np.linspace(0, 1, depth, dtype=np.float32)[:, None]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys)
    return (draws < keep) / keep
