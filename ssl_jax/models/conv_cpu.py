"""Convolution and its gradients on a CPU, where XLA's own are slow.

XLA's CPU backend computes the weight gradient of a convolution at a small part of the machine's rate (4 of 60
GFLOP/s for 3x3 at 32x32x16 on two cores). Here it is a sum over small blocks of images of one matrix product
each, whose unfolded operand stays in the cache. Maps of one or two pixels a side, where the patches of the pretext
tasks end, it convolves at a fiftieth of the rate of a matrix product (2,304 maps of 2x2x128: 383 ms against 7);
there the convolution is that product. 3x3 convolutions of many channels are Winograd's (`conv_winograd`).
"""

import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.models import conv_winograd, conv_xla

# The unfolded block that was fastest over the layers of a ResNet-18 of 16 to 128 channels: about the L2 cache.
_BLOCK_BYTES = 2_400_000


def forward(x: jax.Array, w: jax.Array, **step: int) -> jax.Array:
    """`conv.conv2d`: images x [N, H, W, C] and kernel w [k, k, C, K] to [N, H', W', K]."""
    if conv_winograd.takes(x.shape, w.shape, **step):
        return conv_winograd.convolve(x, w)
    if _is_small(x.shape[1:3], w.shape[0]):
        return small_map_conv(x, w, **step)
    if w.shape[0] == 3 and step["stride"] == 2 and w.shape[2] >= 16:
        return blocked_conv(x, w, **step)
    return conv_xla.forward(x, w, **step)


def input_gradient(g: jax.Array, w: jax.Array, *, size: tuple[int, int], **step: int) -> jax.Array:
    """Gradient [N, *size, C] by the images, of that by the output g [N, H', W', K]."""
    if conv_winograd.takes((g.shape[0], *size, w.shape[2]), w.shape, **step):
        return conv_winograd.convolve(g, w[::-1, ::-1].swapaxes(2, 3))
    halved = (2 * g.shape[1], 2 * g.shape[2]) == tuple(size) and step == {"stride": 2, "padding": 1}
    if w.shape[0] == 3 and halved and 16 <= w.shape[2] < 32:
        return halving_input_gradient(g, w)
    conv = small_map_conv if _is_small(size, w.shape[0]) else conv_xla.forward
    return conv_xla.input_gradient(g, w, size=size, conv=conv, **step)


def weight_gradient(x: jax.Array, g: jax.Array, *, kernel: int, **step: int) -> jax.Array:
    """Gradient [kernel, kernel, C, K] by the kernel, of that by the output g [N, H', W', K]."""
    if conv_winograd.takes(x.shape, (kernel, kernel, x.shape[-1], g.shape[-1]), **step):
        return conv_winograd.weight_gradient(x, g)
    if _is_small(x.shape[1:3], kernel):
        return conv_xla.weight_gradient(x, g, kernel=kernel, conv=small_map_conv, **step)
    return blocked_weight_gradient(x, g, kernel, **step).astype(x.dtype)


def _is_small(size: tuple[int, ...], kernel: int) -> bool:
    """Whether a map has no more pixels than the kernel: the matrix of `small_map_conv` is no more work then."""
    return math.prod(size) <= kernel**2


def small_map_conv(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """`conv.conv2d` as one product of flattened images with the matrix of the convolution, for maps of few pixels.

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


def halving_input_gradient(g: jax.Array, w: jax.Array) -> jax.Array:
    """Input gradient of a 3x3 convolution of stride 2 and padding 1, as one convolution for the four kinds of pixel.

    Args:
      g: gradient of the output [N, H, W, K].
      w: kernel [3, 3, C, K].

    Returns:
      [N, 2 H, 2 W, C].
    """
    (n, h, width, k), c = g.shape, w.shape[2]
    # An even row meets the kernel's second row once; an odd one its third, and its first one output further.
    meets = np.zeros((2, 2, 3), w.dtype)  # [odd, outputs further, row of the kernel]
    meets[0, 0, 1] = meets[1, 0, 2] = meets[1, 1, 0] = 1
    kinds = jnp.einsum("pat,qbu,tuck->abkpqc", meets, meets, w, precision="highest")
    y = lax.conv_general_dilated(
        g, kinds.reshape(2, 2, k, 4 * c), (1, 1), [(0, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.moveaxis(y.reshape(n, h, width, 2, 2, c), 3, 2).reshape(n, 2 * h, 2 * width, c)


def blocked_conv(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """`conv.conv2d` as cache-sized matrix products of unfolded images with the kernel.

    Args:
      x: images [N, H, W, C].
      w: kernel [k, k, C, K].
      stride: of the convolution.
      padding: of the convolution.

    Returns:
      [N, H', W', K].
    """
    k, _, c, features = w.shape
    h, width = ((size + 2 * padding - k) // stride + 1 for size in x.shape[1:3])
    taps = [(i, j) for i in range(k) for j in range(k)]
    size = _block_size(len(x), h * width * k**2 * c * 4)

    def block(x: jax.Array) -> jax.Array:
        # Kept in memory, or XLA would make a convolution of it again, or look up each number anew.
        columns = lax.optimization_barrier(_unfolded(_pad(x, padding), taps, stride, h, width))
        y = jnp.matmul(columns.reshape(-1, k**2 * c), w.reshape(-1, features))
        return y.reshape(size, h, width, features)

    y = lax.map(block, x.reshape(len(x) // size, size, *x.shape[1:]))
    return y.reshape(len(x), h, width, features)


def blocked_weight_gradient(x: jax.Array, g: jax.Array, kernel: int, stride: int, padding: int) -> jax.Array:
    """Weight gradient of `conv.conv2d` as a sum of cache-sized matrix products.

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
        columns = _unfolded(wide, starts, stride, h, w).reshape(block * h * w, -1)
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


def _unfolded(x: jax.Array, starts: list[tuple[int, int]], stride: int, h: int, w: int) -> jax.Array:
    """Every `stride`-th pixel from each start, h by w: images [N, H, W, C] to [N, h, w, starts C]."""
    down, across = stride * (h - 1) + 1, stride * (w - 1) + 1
    return jnp.concatenate([x[:, i : i + down : stride, j : j + across : stride] for i, j in starts], -1)


def _pad(x: jax.Array, padding: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
