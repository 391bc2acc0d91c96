"""3x3 convolution and its weight gradient by Winograd's F(4x4, 3x3), for CPUs.

An output tile of 4x4 pixels is A'[(G w G') * (B' x B)]A, where x is its 6x6 pixels of input: a product of 36 numbers
instead of 144, and over channels 36 matrix products (Lavin and Gray 2016, "Fast algorithms for convolutional neural
networks", sec. 4). Float32 errors depend on the points that the transforms evaluate polynomials at. With 0, 5/8, -5/8,
3/2, -3/2 they are a third of those with 0, 1, -1, 2, -2: at most 4e-6 of the largest value, 1e-6 at the root of the
mean square, of 64 to 256 channels (XLA's own convolution: 6e-7 and 3e-7).

Every step of a transform is kept in memory (`_mixed`), because XLA would otherwise compute the first step of it anew
for each number of the second. Blocks are small enough for this to be the cache.
"""

from collections.abc import Sequence
from fractions import Fraction
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist

_TILE = 4  # side of an output tile
_SIDE = _TILE + 2  # side of an input tile
_POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))  # and infinity

# Below, XLA's own convolution was as fast (docs/speed.md).
_CHANNELS = 32
# Rows of a matrix product over the tiles of a block of images, numbers of its left side where the rows are few, and
# columns of a product over a block of channels.
_ROWS, _NUMBERS, _COLUMNS = 128, 1 << 14, 128
# N H W C K of a convolution, below which a second of compilation is worth more than quicker steps (docs/speed.md).
_WORK = 1 << 23


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A' [4, 6], G [6, 3] and B' [6, 6] by Toom and Cook."""
    scales = [math.prod(p - q for q in _POINTS if q != p) for p in _POINTS]
    last = [Fraction(0)] * 2 + [Fraction(1)]
    a = [[p**i for p in _POINTS] + [Fraction(i == _TILE - 1)] for i in range(_TILE)]
    g = [[p**j / scale for j in range(3)] for p, scale in zip(_POINTS, scales, strict=True)] + [last]
    b = [np.poly([float(q) for q in _POINTS if q != p])[::-1] for p in _POINTS]
    b = [np.append(row, 0) for row in b] + [np.poly([float(p) for p in _POINTS])[::-1]]
    return np.array(a, float), np.array(g, float), np.array(b)


_A, _G, _B = _matrices()


def takes(x: Sequence[int], w: Sequence[int], stride: int, padding: int) -> bool:
    """Whether a convolution of images [N, H, W, C] with a kernel [k, k, C, K] is quicker this way."""
    tiles = math.prod(-(-side // _TILE) for side in x[1:3])
    filled = math.prod(x[1:3]) / (tiles * _TILE**2)
    worth = filled >= 0.6 and math.prod(x) * w[3] >= _WORK
    return w[0] == 3 and stride == padding == 1 and min(w[2:]) >= _CHANNELS and worth


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """Cross-correlates images x [N, H, W, C], padded by one pixel, with w [3, 3, C, K]; returns [N, H, W, K]."""
    (n, height, width, c), k, dtype = x.shape, w.shape[-1], x.dtype
    down, across = -(-height // _TILE), -(-width // _TILE)
    x, w = _widened(x), _widened(w)

    def outputs(v: list[jax.Array], u: list[jax.Array]) -> jax.Array:
        products = [lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,)))) for a, b in zip(v, u, strict=True)]
        return _output_tiles(products, down, across)[:, :height, :width]

    if _few(n * down * across, c, k):
        v, size = _input_tiles(x, down, across), math.gcd(k, _COLUMNS)
        parts = jnp.moveaxis(w.reshape(3, 3, c, k // size, size), 3, 0)
        y = jnp.moveaxis(lax.map(lambda w: outputs(v, _kernels(w)), parts), 0, 3)
    else:
        u, size = _kernels(w), _images(n, down * across, max(_ROWS, _NUMBERS // max(c, k)))
        parts = x.reshape(n // size, size, height, width, c)
        y = lax.map(lambda x: outputs(_input_tiles(x, down, across), u), parts)
    return y.reshape(n, height, width, k).astype(dtype)


def weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient [3, 3, C, K] of `convolve` by the kernel, of images x [N, H, W, C] and that by the output g."""
    (n, height, width, c), k, dtype = x.shape, g.shape[-1], x.dtype
    down, across = -(-height // _TILE), -(-width // _TILE)
    x, g = _widened(x), _widened(g)

    def tiles(x: jax.Array) -> jax.Array:
        rows = lax.optimization_barrier(jnp.stack(_input_rows(x, down, across)))
        return _input_columns(rows, across).reshape(_SIDE**2, -1, c)

    def products(v: jax.Array, d: jax.Array) -> jax.Array:
        return lax.dot_general(v, d, (((1,), (1,)), ((0,), (0,))))

    if _few(n * down * across, c, k):
        v, d, size = tiles(x), _gradient_tiles(g, down, across), math.gcd(c, _COLUMNS)
        parts = jnp.moveaxis(v.reshape(_SIDE**2, -1, c // size, size), 2, 0)
        dw = lax.map(lambda v: _kernel_gradient(products(v, d)), parts)
        return jnp.moveaxis(dw, 0, 2).reshape(3, 3, c, k).astype(dtype)

    def add(total: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return total + products(tiles(block[0]), _gradient_tiles(block[1], down, across)), None

    size = _images(n, down * across, _ROWS)
    start = dist.vary_like(jnp.zeros((_SIDE**2, c, k), x.dtype), g)
    total, _ = lax.scan(add, start, tuple(a.reshape(n // size, size, *a.shape[1:]) for a in (x, g)))
    return _kernel_gradient(total).astype(dtype)


def _few(tiles: int, c: int, k: int) -> bool:
    """Whether the transformed kernel is so much larger than the transformed images that it is made in blocks."""
    return 2 * tiles < max(c, k)


def _images(n: int, tiles: int, rows: int) -> int:
    """How many images of so many tiles make a block: the largest power of two that divides n and gives few rows."""
    size = math.gcd(n, 1 << 20)
    while size > 1 and size * tiles > rows:
        size //= 2
    return size


def _input_tiles(x: jax.Array, down: int, across: int) -> list[jax.Array]:
    """Images [N, H, W, C] to transformed tiles B' x B, six rows of [6, N down across, C]."""
    rows = lax.optimization_barrier(_input_rows(x, down, across))
    return [_input_columns(row[None], across).reshape(_SIDE, -1, x.shape[-1]) for row in rows]


def _input_rows(x: jax.Array, down: int, across: int) -> list[jax.Array]:
    """B' x of images [N, H, W, C], six rows of [N, down, 4 across + 2, C]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1 + _TILE * down - height), (1, 1 + _TILE * across - width), (0, 0)))
    return _sums(_B, [x[:, i : i + _TILE * (down - 1) + 1 : _TILE] for i in range(_SIDE)])


def _input_columns(rows: jax.Array, across: int) -> jax.Array:
    """Rows [R, N, down, 4 across + 2, C] to the same times B, [R, 6, N, down, across, C]."""
    return _mixed(_B, [rows[..., j : j + _TILE * (across - 1) + 1 : _TILE, :] for j in range(_SIDE)], 1)


def _gradient_tiles(g: jax.Array, down: int, across: int) -> jax.Array:
    """Output gradients [N, H, W, K] to transformed tiles A g A', [36, N down across, K]."""
    n, height, width, k = g.shape
    g = jnp.pad(g, ((0, 0), (0, _TILE * down - height), (0, _TILE * across - width), (0, 0)))
    g = g.reshape(n, down, _TILE, _TILE * across, k)
    rows = _mixed(_A.T, [g[:, :, i] for i in range(_TILE)]).reshape(_SIDE, n, down, across, _TILE, k)
    return _mixed(_A.T, [rows[..., j, :] for j in range(_TILE)], 1).reshape(_SIDE**2, n * down * across, k)


def _output_tiles(products: list[jax.Array], down: int, across: int) -> jax.Array:
    """Products, six rows of [6, N down across, K], to images A' products A, [N, 4 down, 4 across, K]."""
    k = products[0].shape[-1]
    shaped = [product.reshape(_SIDE, -1, down, across, k) for product in lax.optimization_barrier(products)]
    rows = _mixed(_A, shaped)
    tiles = jnp.stack(_sums(_A, [rows[:, j] for j in range(_SIDE)]), 4)  # [4, N, down, across, 4, K]
    return jnp.moveaxis(tiles, 0, 2).reshape(-1, _TILE * down, _TILE * across, k)


def _kernels(w: jax.Array) -> list[jax.Array]:
    """Kernels [3, 3, C, K] to G w G', six rows of [6, C, K]."""
    rows = _mixed(_G, list(w))
    return [_mixed(_G, list(row)) for row in rows]


def _kernel_gradient(total: jax.Array) -> jax.Array:
    """Gradients [36, C, K] of `_kernels` to those of kernels, G' total G, [3, 3, C, K]."""
    total = lax.optimization_barrier(total).reshape(_SIDE, _SIDE, *total.shape[1:])
    rows = _mixed(_G.T, list(total))
    return jnp.stack(_sums(_G.T, [rows[:, j] for j in range(_SIDE)]), 1)


def _mixed(matrix: np.ndarray, parts: list[jax.Array], axis: int = 0) -> jax.Array:
    """A matrix times equal arrays, stacked along an axis, in memory."""
    return lax.optimization_barrier(jnp.stack(_sums(matrix, parts), axis))


def _sums(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
    """A matrix times equal arrays, number by number, without its zeros."""
    rows = [[(float(c), part) for c, part in zip(row, parts, strict=True) if c] for row in matrix]
    return [functools.reduce(jnp.add, [part if c == 1 else c * part for c, part in row]) for row in rows]


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
