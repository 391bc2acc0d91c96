"""CIE Lab colours and the bins of their ab plane (Zhang, Isola, Efros 2016, arXiv 1603.08511, sec. 2.1).

Conversion is scikit-image's, which the authors use: sRGB primaries, white point D65 of the 2 degree observer.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import ConvexHull

_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.95047, 1.0, 1.08883])
GRID = 10  # side of a bin of the ab plane
NEIGHBOURS, SIGMA = 10, 5.0  # of the soft encoding, sec. 2.1


def rgb_to_lab(rgb: jax.Array) -> jax.Array:
    """Lab of sRGB [..., 3] in [0, 1]: L in [0, 100], a and b within -108 and 99."""
    linear = jnp.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = jnp.matmul(linear, jnp.asarray(_XYZ.T / _WHITE, rgb.dtype), precision="highest")
    x, y, z = jnp.moveaxis(jnp.where(xyz > 0.008856, jnp.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_rgb(lab: jax.Array) -> jax.Array:
    """The sRGB values [..., 3] of Lab; what lies outside the gamut is clipped to [0, 1]."""
    y = (lab[..., 0] + 16) / 116
    f = jnp.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = jnp.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    linear = jnp.matmul(xyz, jnp.asarray(np.linalg.inv(_XYZ.T / _WHITE), lab.dtype), precision="highest")
    linear = jnp.clip(linear, 0.0, 1.0)
    return jnp.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


@functools.cache
def ab_centres() -> np.ndarray:
    """Centres [313, 2] of the bins: the authors' table, ordered by a, then b.

    Its points are the corners of all cells of the grid into which the convex hull of sRGB reaches: those less than a
    cell away from it in both directions.
    """
    level = np.linspace(0, 1, 33)
    cube = np.stack(np.meshgrid(level, level, level, indexing="ij"), -1).reshape(-1, 3)
    with jax.ensure_compile_time_eval():
        ab = np.asarray(rgb_to_lab(jnp.asarray(cube, jnp.float32)))[:, 1:]
    shifts = np.array([(-GRID, -GRID), (-GRID, GRID), (GRID, -GRID), (GRID, GRID)])
    edges = ConvexHull((ab[:, None] + shifts).reshape(-1, 2)).equations
    line = np.arange(-120, 121, GRID)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return points[(points @ edges[:, :2].T + edges[:, 2] < 0).all(1)].astype(np.float32)


BINS = 313  # Q; `ab_centres` has that many


def _squared_distance(ab: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(ab[..., None, :] - jnp.asarray(ab_centres(), ab.dtype)), -1)


def nearest_bin(ab: jax.Array) -> jax.Array:
    """The bin [...] whose centre is the nearest to colours [..., 2], the first of several."""
    return jnp.argmin(_squared_distance(ab), -1)


def soft_encode(ab: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gaussian weights on the ten nearest bins (sec. 2.1).

    For the first alone there is `nearest_bin`: of a part of what `top_k` gives, XLA sorts all bins on a CPU, in several
    times the time.

    Args:
      ab: [..., 2].

    Returns:
      bins [..., 10], the nearest first, and their weights [..., 10], which sum to one.
    """
    near, index = jax.lax.top_k(-_squared_distance(ab), NEIGHBOURS)
    return index, jax.nn.softmax(near / (2 * SIGMA**2), -1)
