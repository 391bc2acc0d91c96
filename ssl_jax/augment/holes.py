"""What a context encoder hides of an image (Pathak et al. 2016, arXiv 1604.07379, sec. 3.3, and its code)."""

import jax
import jax.numpy as jnp
import numpy as np


def centre_hole(size: int, overlap: int) -> np.ndarray:
    """Where an image is hidden, bool [size, size, 1]: its centre of half the side, less `overlap` pixels all round."""
    inside = np.abs(np.arange(size) - (size - 1) / 2) < size / 4 - overlap
    return (inside[:, None] & inside)[..., None]


def centre_weights(size: int, overlap: int, weight: float) -> np.ndarray:
    """Weights [size / 2, size / 2, 1] of the centre's pixels: `weight` on the ring that is not hidden, 1 inside."""
    hole = centre_hole(size, overlap)[size // 4 : size // 4 * 3, size // 4 : size // 4 * 3]
    return np.where(hole, 1.0, weight).astype(np.float32)


def random_regions(keys: jax.Array, size: int, area: float) -> jax.Array:
    """Random blobs that cover a share of the image: the peaks of enlarged noise (train_random.lua).

    Args:
      keys: one key an image [B].
      size: side of the image, pixels.
      area: share of the pixels.

    Returns:
      bool [B, size, size, 1].
    """
    cells = 8  # of noise along a side, as 0.06 a pixel at 128
    noise = jax.vmap(lambda key: jax.random.uniform(key, (cells, cells)))(keys)
    noise = jax.image.resize(noise, (len(keys), size, size), "cubic").reshape(len(keys), -1)
    places = jnp.argsort(jnp.argsort(-noise, 1), 1)
    return (places < round(area * size**2)).reshape(-1, size, size, 1)
