"""Patches of images, and the positions that a transformer gives them."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.runtime.errors import UserError


def patches(images: jax.Array, side: int) -> jax.Array:
    """Cuts images [B, H, W, C] into patches [B, H/side W/side, side side C], row by row, in row, column, channel order.

    Raises:
      UserError: if the images do not divide into patches.
    """
    b, h, w, c = images.shape
    if h % side or w % side:
        raise UserError(
            f"Images of {h}x{w} pixels do not divide into patches of {side}x{side}: set config.model.patch to a "
            "divisor of the size of every view."
        )
    x = images.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
    return x.reshape(b, -1, side * side * c)


def unpatched(x: jax.Array, grid: tuple[int, int], side: int) -> jax.Array:
    """Images [B, H, W, C] of patches [B, rows columns, side side C], as `patches` cut them; `grid`: rows, columns."""
    x = x.reshape(len(x), *grid, side, side, -1).swapaxes(2, 3)
    return x.reshape(len(x), grid[0] * side, grid[1] * side, -1)


def sincos(grid: tuple[int, int], width: int) -> np.ndarray:
    """Fixed two-dimensional positions [1, 1 + rows columns, width]; the class token's is zero.

    Quarters of the width: sine and cosine of the row, sine and cosine of the column, at `width / 4` frequencies from
    1 down to almost 1/10000 (MoCo v3's code; MAE's has the columns first).
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    row, column = np.indices(grid).reshape(2, -1, 1) * frequencies
    table = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], 1)
    return np.concatenate([np.zeros((1, width)), table])[None].astype(np.float32)


def resized(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Learned positions [1, 1 + s s, D] for another grid of patches: bicubic as in DINO's code, class token kept."""
    side = round((positions.shape[1] - 1) ** 0.5)  # views are square
    if grid == (side, side):
        return positions
    square = positions[:, 1:].reshape(side, side, -1)
    rows, columns = (jnp.asarray(bicubic(side, n)) for n in grid)
    moved = jnp.einsum("ri,cj,ijd->rcd", rows, columns, square, precision="highest")
    return jnp.concatenate([positions[:, :1], moved.reshape(1, -1, square.shape[-1])], 1)


def without_registers(positions: np.ndarray, registers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of class token and patches, and registers, of a checkpoint of timm or DINOv2.

    Args:
      positions: [1, n, D], of class token and patches (DINOv2), with the registers' between them (timm), which are
        added to the registers, or of the patches alone (timm's `no_embed_class`).
      registers: [1, R, D].
    """
    count, end = positions.shape[1], 1 + registers.shape[1]
    if round((count - 1) ** 0.5) ** 2 == count - 1:
        return positions, registers
    if round(count**0.5) ** 2 == count:
        return np.pad(positions, ((0, 0), (1, 0), (0, 0))), registers
    return np.concatenate([positions[:, :1], positions[:, end:]], 1), registers + positions[:, 1:end]


def bicubic(old: int, new: int, more: float = 0.1) -> np.ndarray:
    """Weights [new, old] of torch's bicubic interpolation (a = -0.75, not antialiased, edges repeated).

    Args:
      old: length before.
      new: length afterwards.
      more: the scale is (new + more) / old: DINO's code adds 0.1 against rounding, and torch takes the ratio as given.
    """
    a = -0.75
    centre = (np.arange(new) + 0.5) * old / (new + more) - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(centre) + tap
        d = np.abs(centre - place)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        column = np.clip(place, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(new), column), np.where(d <= 1, near, np.where(d < 2, far, 0.0)))
    return weights.astype(np.float32)
