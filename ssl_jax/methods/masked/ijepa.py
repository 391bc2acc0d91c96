"""I-JEPA: from a part of an image, features of other parts are predicted, as a slowly moving copy sees them.

Assran et al. 2023 (arXiv 2301.08243). A context encoder sees one large block of patches without those of four target
blocks; a predictor is told where a target block is and predicts the target encoder's features there, each normalised
by its own mean and variance. There is no class token, and no augmentation but the crop.

The authors' code (facebookresearch/ijepa) cuts the patches of all images of a device to the number of the image that
has fewest, so that images in a batch change each other. Here they are padded, and padding is not attended to: an image
has all its patches, whatever the batch and the number of devices. `authors` has the code's rules: patches cut to the
fewest of the global batch, in the order of rows; area and aspect of a block from the same draw; blocks that never reach
the last row and column. The loss is the code's smooth L1, or the paper's L2.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import dist
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.models.backbone import one_of
from ssl_jax.models.decoders import JEPAPredictor
from ssl_jax.models.parts import apply, initialise
from ssl_jax.models.vit import SIZES
from ssl_jax.runtime.errors import UserError

LEAST = 11  # patches of a context; a quarter of them all where those are few

Range = tuple[float, float]


def block_size(u: jax.Array, grid: tuple[int, int], scale: Range, aspect: Range, largest: int) -> jax.Array:
    """Rows and columns [..., 2] of a block.

    Args:
      u: draws [..., 2] from 0 to 1, of the area and of the aspect.
      grid: rows and columns of patches.
      scale: share of the patches, uniform between these.
      aspect: rows over columns, likewise.
      largest: rows and columns that are left free at least: 1 in the authors' code, else 0.
    """
    area = jnp.floor(grid[0] * grid[1] * (scale[0] + u[..., 0] * (scale[1] - scale[0])) + 1e-4)
    ratio = aspect[0] + u[..., 1] * (aspect[1] - aspect[0])
    sides = jnp.round(jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)], -1))
    return jnp.clip(sides, 1, jnp.asarray(grid) - largest).astype(jnp.int32)


def areas_of_blocks(grid: tuple[int, int], scale: Range, aspect: Range) -> set[int]:
    """Numbers of patches that blocks of `block_size` can have, with and without the last row and column.

    Args:
      grid: rows and columns of patches.
      scale: share of the patches.
      aspect: rows over columns.
    """
    found = set()
    for area in range(int(grid[0] * grid[1] * scale[0] + 1e-4), int(grid[0] * grid[1] * scale[1] + 1e-4) + 1):
        # Sides are rounded, so that they change where one of them is a half.
        halves = np.arange(0.5, max(grid) + 1)
        changes = np.concatenate([aspect, halves**2 / max(area, 1), max(area, 1) / halves**2])
        for ratio in np.outer(changes, (1 - 1e-6, 1 + 1e-6)).clip(*aspect).ravel():
            sides = np.round([np.sqrt(area * ratio), np.sqrt(area / ratio)])
            found |= {int(np.prod(np.clip(sides, 1, np.array(grid) - free))) for free in (0, 1)}
    return found


def blocks(u: jax.Array, size: jax.Array, grid: tuple[int, int], authors: bool) -> jax.Array:
    """Blocks of one size at uniform places: bool [..., rows columns].

    Args:
      u: draws [..., 2] from 0 to 1, of the place.
      size: rows and columns [2].
      grid: rows and columns of patches.
      authors: leave the last possible place out, as the authors' code does.
    """
    free = jnp.asarray(grid) - size + (0 if authors else 1)
    corner = jnp.floor(u * free).astype(jnp.int32)
    r, c = jnp.arange(grid[0])[:, None], jnp.arange(grid[1])
    y, x = corner[..., 0, None, None], corner[..., 1, None, None]
    inside = (r >= y) & (r < y + size[0]) & (c >= x) & (c < x + size[1])
    return inside.reshape(*u.shape[:-1], -1)


def context_of(block: jax.Array, targets: jax.Array) -> jax.Array:
    """A block without the targets, or without the first ones only where fewer than `LEAST` patches would be left.

    Args:
      block: bool [L].
      targets: bool [T, L].
    """
    hidden = jnp.concatenate([jnp.zeros_like(targets[:1]), jnp.cumsum(targets, 0) > 0])
    left = block & ~hidden  # [T + 1, L], without none, one, ... of them
    enough = left.sum(1) >= min(LEAST, block.shape[0] // 4)
    return left[jnp.max(jnp.where(enough, jnp.arange(len(left)), 0))]


def gathered(mask: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Indices [..., capacity] of the patches of a mask [..., L] in the order of rows, and which of them are of it."""
    index = jnp.argsort(~mask, -1, stable=True)[..., :capacity]
    return index, jnp.take_along_axis(mask, index, -1)


def feature_targets(tokens: jax.Array) -> jax.Array:
    """Features [..., D] by their own mean and variance, in float32 or wider, without gradient."""
    x = jax.lax.stop_gradient(tokens)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def prediction_error(
    prediction: jax.Array, target: jax.Array, counted: jax.Array, kind: str = "smooth_l1"
) -> jax.Array:
    """Mean over the patches that count and all channels.

    Args:
      prediction: [..., M, D].
      target: likewise.
      counted: bool [..., M].
      kind: 'smooth_l1' (the code, with beta 1) or 'l2' (the paper).
    """
    gap = jnp.abs(prediction - target)
    error = jnp.where(gap < 1, gap**2 / 2, gap - 0.5) if kind == "smooth_l1" else gap**2
    return jnp.sum(error.mean(-1) * counted) / counted.sum()


@dataclasses.dataclass(frozen=True)
class IJEPA(Method):
    """Image-based joint-embedding predictive architecture."""

    view: View = recipes.IJEPA
    target_blocks: int = 4  # to predict
    target_scale: Range = (0.15, 0.2)  # share of the patches
    target_aspect: Range = (0.75, 1.5)  # rows over columns
    context_scale: Range = (0.85, 1.0)
    width: int = 384  # of the predictor
    depth: int = 6  # blocks of the predictor; 12 for ViT-H
    tau: float = 0.996  # weight of the old target encoder; linearly to 1
    error: str = "smooth_l1"  # of the predicted features (the code), or 'l2' (the paper)
    authors: bool = False  # the rules of the authors' code for blocks

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        one_of("config.method.error", self.error, ("smooth_l1", "l2"))
        if "seen" not in self.backbone.options or getattr(self.backbone, "class_token", True):
            raise UserError(
                "I-JEPA encodes some of an image's patches and no class token: set config.model.name to vit_micro_gap, "
                "or tiny, small, base, large, huge or giant in the place of micro."
            )
        if self.view.size % self._patch() or self._grid()[0] < 4:
            raise UserError(
                f"config.method.view.size is {self.view.size} and config.model.patch {self._patch()}: the former must "
                "be a multiple of the latter, at least four times as large."
            )
        if self.width % 4:
            raise UserError(f"config.method.width is {self.width}: it must be a multiple of 4.")

    def _patch(self) -> int:
        return self.backbone.patch  # type: ignore[attr-defined]

    def _grid(self) -> tuple[int, int]:
        return (self.view.size // self._patch(),) * 2

    def _predictor(self) -> JEPAPredictor:
        net: Any = self.backbone
        width, _, heads = SIZES[net.size]
        return JEPAPredictor(self.width, self.depth, net.heads or heads, self._grid(), width, net.dtype)

    def _capacity(self) -> tuple[int, int]:
        """The most patches of a target, and of a context, which is what the smallest target leaves."""
        areas = areas_of_blocks(self._grid(), self.target_scale, self.target_aspect)
        return max(areas), self._grid()[0] * self._grid()[1] - min(areas)

    def _draw(self, rng: jax.Array, positions: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
        """Indices and which of them count, of the context [B, N] and of the targets [B, T, M]."""
        grid, free = self._grid(), int(self.authors)
        u = jax.random.uniform(jax.random.fold_in(rng, 0), (2, 2))
        u = jnp.broadcast_to(u[:, :1], (2, 2)) if self.authors else u
        size = block_size(u[0], grid, self.target_scale, self.target_aspect, free)
        around = block_size(u[1], grid, self.context_scale, (1.0, 1.0), free)
        keys = dist.example_keys(jax.random.fold_in(rng, 1), positions)
        places = jax.vmap(lambda key: jax.random.uniform(key, (self.target_blocks + 1, 2)))(keys)
        targets = blocks(places[:, :-1], size, grid, self.authors)
        context = jax.vmap(context_of)(blocks(places[:, -1], around, grid, self.authors), targets)
        most, room = self._capacity()
        index, counted = gathered(context, room)
        if self.authors:
            counted &= jnp.arange(room) < jax.lax.pmin(counted.sum(1).min(), dist.AXIS)
        return (index, counted), gathered(targets, most)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        keys = jax.random.split(rng, 2)
        params, stats = initialise({"backbone": self.backbone}, keys[0], batch["view"])
        n, (most, room) = len(batch["view"]), self._capacity()
        places = {"context": jnp.zeros((n, room), int), "counted": jnp.ones((n, room), bool)}
        places |= {"targets": jnp.zeros((n, self.target_blocks, most), int)}
        places |= {"target_counted": jnp.ones((n, self.target_blocks, most), bool)}
        tokens = jnp.zeros((n, room, self._predictor().out))
        more, _ = initialise({"predictor": self._predictor()}, keys[1], tokens, **places)
        return params | more, {"stats": stats, "target": params}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        state = jax.lax.stop_gradient(state)
        (context, counted), (places, target_counted) = self._draw(rng, batch["position"])
        x, net = batch["view"], self.backbone
        seen = {"visible": context, "seen": counted, "pool": False}
        h, _ = apply(net, "backbone", params, state["stats"], x, train=train, **seen)
        where = {"context": context, "counted": counted, "targets": places, "target_counted": target_counted}
        y, _ = apply(self._predictor(), "predictor", params, {}, h, train=train, **where)
        whole, _ = apply(net, "backbone", {"backbone": state["target"]["backbone"]}, {}, x, train=False, pool=False)
        whole = whole.reshape(len(x), 1, -1, whole.shape[-1])
        target = jnp.take_along_axis(feature_targets(whole), places[..., None], 2)
        loss = prediction_error(y, target, target_counted, self.error)
        chance = prediction_error(jnp.zeros_like(target), target, target_counted, self.error)
        metrics = {"feature_error": Metric(loss, chance, "loss"), "context": counted.mean(dtype=jnp.float32)}
        features = jax.lax.stop_gradient(whole.mean((1, 2)))
        return loss, (state, Aux(jax.lax.stop_gradient(metrics), features))

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        share = (1 - self.tau) * (1 - step / info.total_steps)
        own = {"backbone": params["backbone"]}
        return params, {**state, "target": optax.incremental_update(own, state["target"], share)}

    def variables(self, params: Any, state: Any) -> dict[str, Any]:
        """The target encoder's."""
        return super().variables(state["target"], state)

    def chance(self, info: Info) -> float:
        """The mean, of features that are normally distributed."""
        return 0.4247 if self.error == "smooth_l1" else 1.0
