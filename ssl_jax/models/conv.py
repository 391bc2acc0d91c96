"""Convolution that is quick on a CPU as well.

XLA's CPU backend computes the weight gradient of a convolution at a small part of the machine's rate (4 of 60
GFLOP/s for 3x3 at 32x32x16 on two cores). Here it is a sum over small blocks of images of one matrix product
each, whose unfolded operand stays in the cache. Maps of one or two pixels a side, where the patches of the pretext
tasks end, it convolves at a fiftieth of the rate of a matrix product (2,304 maps of 2x2x128: 383 ms against 7);
there the convolution is that product. Accelerators keep XLA's own convolution and gradients.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ssl_jax import dist

# The unfolded block that was fastest over the layers of a ResNet-18 of 16 to 128 channels: about the L2 cache.
_BLOCK_BYTES = 2_400_000

# How convolutions start. BatchNorm hides the scale of a kernel but not its gradient: a kernel s times smaller learns
# s^2 times as fast, so the initialisation is part of a recipe.
INITS = {
    "kaiming": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),  # torchvision's ResNets
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # torch's own default, lightly's CIFAR nets
    "dcgan": nn.initializers.normal(0.02),  # generators and discriminators
}


class Conv(nn.Module):
    """2-D convolution of NHWC images with square kernel and symmetric zero padding of (kernel - 1) // 2.

    Attributes:
      features: output channels.
      kernel: side of the kernel, pixels.
      stride: step of the kernel, pixels.
      use_bias: whether to add a bias per channel.
      init_kind: a key of `INITS`.
      dtype: type that is computed in; parameters stay float32.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    use_bias: bool = False
    init_kind: str = "kaiming"
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:  # [N, H, W, C] -> [N, H', W', features]
        w, bias = self.weights(x.shape[-1])
        y = conv2d(x.astype(self.dtype), w.astype(self.dtype), self.stride, (self.kernel - 1) // 2)
        return y if bias is None else y + bias.astype(self.dtype)

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel [k, k, channels, features] for so many input channels, and the bias if there is one."""
        shape = (self.kernel, self.kernel, channels, self.features)
        w = self.param("kernel", INITS[self.init_kind], shape)
        return w, self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # layers of one shape are traced once
def conv2d(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """Cross-correlates images with a kernel.

    Args:
      x: images [N, H, W, C].
      w: kernel [k, k, C, K].
      stride: step in both directions, pixels.
      padding: zeros added on each side, pixels.

    Returns:
      [N, H', W', K] with H' = (H + 2 padding - k) // stride + 1.
    """
    return _conv(x, dist.vary_like(w, x), stride, padding)


def _xla_conv(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    if not _is_small(x, w):
        return _xla_conv(x, w, stride, padding)
    conv = functools.partial(small_map_conv, stride=stride, padding=padding)
    return lax.platform_dependent(x, w, cpu=conv, default=functools.partial(_xla_conv, stride=stride, padding=padding))


def _conv_forward(x, w, stride, padding):
    return _conv(x, w, stride, padding), (x, w)


def _conv_backward(stride, padding, residuals, g):
    def gradients(conv, x, w, g):
        return jax.vjp(lambda x, w: conv(x, w, stride, padding), x, w)[1](g)

    def on_cpu(x, w, g):
        if _is_small(x, w):
            return gradients(small_map_conv, x, w, g)
        _, input_gradient = jax.vjp(lambda x: _xla_conv(x, w, stride, padding), x)
        return input_gradient(g)[0], blocked_weight_gradient(x, g, w.shape[0], stride, padding).astype(w.dtype)

    return lax.platform_dependent(*residuals, g, cpu=on_cpu, default=functools.partial(gradients, _xla_conv))


_conv.defvjp(_conv_forward, _conv_backward)


def _is_small(x: jax.Array, w: jax.Array) -> bool:
    """Whether a map has no more pixels than the kernel: the matrix of `small_map_conv` is no more work then."""
    return x.shape[1] * x.shape[2] <= w.shape[0] * w.shape[1]


def small_map_conv(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """`conv2d` as one product of flattened images with the matrix of the convolution, for maps of few pixels.

    Args:
      x: images [N, H, W, C].
      w: kernel [k, k, C, K].
      stride: of the convolution.
      padding: of the convolution.

    Returns:
      [N, H', W', K].
    """
    (n, h, width, c), (k, _, _, features) = x.shape, w.shape
    outputs = [((size + 2 * padding - k) // stride + 1) for size in (h, width)]
    # An output pixel sees all input pixels through the kernel shifted to it, with zeros where the kernel ends.
    shifted = jnp.pad(w, ((h, h), (width, width), (0, 0), (0, 0)))
    starts = [[size + padding - stride * i for i in range(m)] for size, m in zip((h, width), outputs, strict=True)]
    columns = [shifted[i : i + h, j : j + width] for i in starts[0] for j in starts[1]]
    matrix = jnp.stack(columns, axis=-2).reshape(h * width * c, -1)
    return (x.reshape(n, -1) @ matrix).reshape(n, *outputs, features)


def blocked_weight_gradient(x: jax.Array, g: jax.Array, kernel: int, stride: int, padding: int) -> jax.Array:
    """Weight gradient of `conv2d` as a sum of cache-sized matrix products.

    Args:
      x: images [N, H, W, C].
      g: gradient of the output [N, H', W', K].
      kernel: side k of the kernel.
      stride: of the convolution.
      padding: of the convolution.

    Returns:
      gradient [k, k, C, K] in float32 (float64 for float64 input).
    """
    c, k = x.shape[-1], g.shape[-1]
    # Unfold whichever side is the narrower; the gradient side only lines up with the input at stride 1.
    unfold_g = stride == 1 and k <= c
    taps = [(i, j) for i in range(kernel) for j in range(kernel)]
    if unfold_g:
        wide, narrow = _pad(g, kernel - 1 - padding), x
        starts = [(kernel - 1 - i, kernel - 1 - j) for i, j in taps]
    else:
        wide, narrow, starts = _pad(x, padding), g, taps
    n, h, w = narrow.shape[:3]
    block = _block_size(n, h * w * len(taps) * wide.shape[-1] * 4)
    accumulator = jnp.promote_types(x.dtype, jnp.float32)

    def add_block(total, pair):
        wide, narrow = pair
        columns = jnp.concatenate(
            [wide[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride] for i, j in starts],
            axis=-1,
        ).reshape(block * h * w, -1)
        rows = narrow.reshape(block * h * w, -1)
        return total + jnp.matmul(rows.T, columns, preferred_element_type=accumulator), None

    start = dist.vary_like(jnp.zeros((narrow.shape[-1], len(taps) * wide.shape[-1]), accumulator), g)
    blocks = [a.reshape(n // block, block, *a.shape[1:]) for a in (wide, narrow)]
    dw, _ = lax.scan(add_block, start, blocks)
    if unfold_g:
        return dw.reshape(c, kernel, kernel, k).transpose(1, 2, 0, 3)
    return dw.reshape(k, kernel, kernel, c).transpose(1, 2, 3, 0)


def _block_size(n: int, bytes_per_image: int) -> int:
    """The largest divisor of n that is a power of two and whose block fits the cache; at least 1."""
    largest = math.gcd(n, 1 << 20)
    while largest > 1 and largest * bytes_per_image > _BLOCK_BYTES:
        largest //= 2
    return largest


def _pad(x: jax.Array, padding: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
