"""Max-pooling that is quick on a CPU as well."""

import jax
import jax.numpy as jnp


def halved(x: jax.Array) -> jax.Array:
    """2x2 max-pooling of stride 2: maps [B, H, W, D] to [B, H // 2, W // 2, D], an odd last row or column left out.

    The gradient of XLA's own pooling takes fifty times as long on a CPU (160 maps of 28x28x32: 158 ms against 3). Equal
    values share the gradient, where that one gives it to the first; behind a ReLU those are zeros, which have none.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    x = x[:, :height, :width]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])
