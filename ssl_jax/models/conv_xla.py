"""A convolution as XLA has it, and the gradients that JAX derives of a convolution."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from ssl_jax import dist


def forward(x: jax.Array, w: jax.Array, *, stride: int, padding: int) -> jax.Array:
    """`conv.conv2d`: images x [N, H, W, C] and kernel w [k, k, C, K] to [N, H', W', K]."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def input_gradient(
    g: jax.Array, w: jax.Array, *, size: tuple[int, int], conv: Callable[..., jax.Array] = forward, **step: int
) -> jax.Array:
    """Gradient [N, *size, C] of `conv` by the images, of that by the output g [N, H', W', K]."""
    return _transposed(lambda x: conv(x, w, **step), (g.shape[0], *size, w.shape[2]), g)


def weight_gradient(
    x: jax.Array, g: jax.Array, *, kernel: int, conv: Callable[..., jax.Array] = forward, **step: int
) -> jax.Array:
    """Gradient [kernel, kernel, C, K] of `conv` by the kernel, of that by the output g [N, H', W', K]."""
    return _transposed(lambda w: conv(x, w, **step), (kernel, kernel, x.shape[-1], g.shape[-1]), g)


def _transposed(linear: Callable[[Any], jax.Array], shape: tuple[int, ...], g: jax.Array) -> jax.Array:
    # Of an argument that did not vary over devices as the result does, JAX would sum the gradients.
    return jax.linear_transpose(linear, dist.vary_like(jnp.zeros(shape, g.dtype), g))(g)[0]
