"""Vision transformers (Dosovitskiy et al. 2021) as DINO, MoCo v3 and MAE train them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.gelu import gelu
from ssl_jax.models.heads import torch_uniform
from ssl_jax.runtime.errors import UserError

# Width, blocks and heads. MoCo v3 gives vit_small twice the heads.
SIZES = {
    "vit_micro": (64, 4, 2),  # for a laptop
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


class Init(NamedTuple):
    """Initialisers of the weights; biases start at zero."""

    linear: Callable[..., Any]
    qkv: Callable[..., Any]  # queries, keys and values are one matrix
    patch: Callable[..., Any]
    token: Callable[..., Any]


_normal, _xavier = nn.initializers.normal(0.02), nn.initializers.xavier_uniform()
INITS = {
    # Written as a truncated normal, but its cut is at 100 standard deviations; the patches have torch's default.
    "dino": Init(_normal, _normal, torch_uniform, _normal),
    # Xavier for each of queries, keys and values: twice the variance that their common matrix would have.
    "mocov3": Init(
        _xavier,
        nn.initializers.variance_scaling(2.0, "fan_avg", "uniform"),
        _xavier,
        nn.initializers.normal(1e-6),
    ),
    "mae": Init(_xavier, _xavier, _xavier, _normal),
}


class ViT(nn.Module):
    """A vision transformer without its classifier; pre-norm blocks, biases everywhere.

    Attributes:
      size: a key of `SIZES`.
      patch: side of a patch, pixels.
      heads: of the attention; 0 for the size's own.
      positions: 'learned', interpolated where the grid of patches is not that of initialisation, or 'sincos', fixed.
      vit_init: how weights start, a key of `INITS`.
      fixed_patch: leave the projection of patches as it starts (MoCo v3, sec. 4.2).
      bn_groups: BatchNorm groups of the global batch, for heads; there is none in here.
      dtype: type that is computed in; norms and softmax are float32.
      remat: the blocks of the first so many stages are computed anew in the backward pass.
    """

    size: str = "vit_small"
    patch: int = 16
    heads: int = 0
    positions: str = "learned"
    vit_init: str = "dino"
    fixed_patch: bool = False
    bn_groups: int = 1
    dtype: Any = jnp.float32
    remat: int = 0

    @property
    def stages(self) -> int:
        """Number of stages: quarters of the depth."""
        return 4

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that never move."""
        return ("patch",) if self.fixed_patch else ()

    def stage_of(self, name: str) -> int:
        """The stage that a part of the parameters belongs to, by its name; 0: before the first block."""
        if name == "norm":
            return self.stages
        depth = SIZES[self.size][1]
        return -(-int(name.removeprefix("block")) * self.stages // depth) if name.startswith("block") else 0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        stage: int | None = None,
        frozen: int = 0,
        drop_path: float = 0.0,
        keys: jax.Array | None = None,
        pool: bool = True,
        visible: jax.Array | None = None,
    ) -> jax.Array:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: as other backbones have it; only `drop_path` depends on it.
          stage: quarter of the depth (1 to 4) whose output is wanted; default the last.
          frozen: the patches and so many quarters of the blocks get no gradient.
          drop_path: probability that an image skips the last block's branches, falling linearly to 0 at the first.
          keys: one random key an image [B]; without them no branch is skipped.
          pool: return the class token.
          visible: indices [B, k] of the only patches that are seen (MAE); needs `pool=False`.

        Returns:
          class token after the last norm [B, D]; without `pool` the map of the patches' tokens [B, rows, columns, D],
          or with `visible` all tokens, the class token's first, [B, 1 + k, D].

        Raises:
          UserError: if the images do not divide into patches.
        """
        width, depth, heads = SIZES[self.size]
        init = INITS[self.vit_init]
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init.patch, name="patch")(patches(x, self.patch))
        if self.fixed_patch:
            x = jax.lax.stop_gradient(x)
        token = self.param("token", init.token, (1, 1, width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, width)), x], 1)
        x += self._positions(grid, width).astype(x.dtype)
        if visible is not None:
            x = jnp.concatenate([x[:, :1], jnp.take_along_axis(x[:, 1:], visible[..., None], 1)], 1)
        gates = jnp.ones((1, depth, 2))
        if train and keys is not None:
            gates = open_gates(keys, drop_path, depth)
        for i in range(depth * (stage or self.stages) // self.stages):
            block = nn.remat(Block) if i * self.stages < self.remat * depth else Block
            x = block(self.heads or heads, init, self.dtype, name=f"block{i + 1}")(x, gates[:, i].astype(x.dtype))
            x = jax.lax.stop_gradient(x) if i + 1 == depth * frozen // self.stages else x
        x = nn.LayerNorm(1e-6, self.dtype, name="norm")(x[:, 0] if pool else x)
        if pool or visible is not None:
            return x
        return x[:, 1:].reshape(len(x), *grid, width)

    def _positions(self, grid: tuple[int, int], width: int) -> jax.Array:
        if self.positions == "sincos":
            return jnp.asarray(sincos(grid, width))
        # Views of other sizes than that of initialisation see the same parameter.
        if self.has_variable("params", "positions"):
            return resized(self.get_variable("params", "positions"), grid)
        return self.param("positions", _normal, (1, 1 + grid[0] * grid[1], width))


class Block(nn.Module):
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


def bicubic(old: int, new: int) -> np.ndarray:
    """Weights [new, old] of torch's bicubic interpolation (a = -0.75, not antialiased, edges repeated).

    The scale is (new + 0.1) / old: DINO's code adds the 0.1 against rounding, and torch then takes the ratio as given.
    """
    a = -0.75
    centre = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(centre) + tap
        d = np.abs(centre - place)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        column = np.clip(place, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(new), column), np.where(d <= 1, near, np.where(d < 2, far, 0.0)))
    return weights.astype(np.float32)
