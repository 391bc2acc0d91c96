"""Watching objects move: a single frame is segmented as motion between frames has it.

Pathak, Girshick, Dollár, Darrell, Hariharan 2017 (arXiv 1612.06370). What moves in a video is found without labels,
and a network learns to segment it in one frame, so that its features come to know objects. Follows the authors' code
(pathak22/videoseg and the training code): one linear layer from the features to a coarse mask, which is enlarged; a
logistic loss for each pixel; pixels that are neither surely object nor surely background are left out. Decisions:

- motion is what is left of the difference of two frames after one of them was shifted as the camera moved; the
  authors group optical flow (sec. 4.1);
- of the moving pixels the largest connected region is kept, and a frame is left out where that covers less than 2 % or
  more than 60 % of it, or touches more than two borders, as theirs (sec. 4.2);
- masks of five frames in a row are averaged: above .7 is object, below .3 background.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View, pixels
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Clips, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.heads import torch_uniform
from ssl_jax.models.parts import apply, initialise

FRAMES, MIDDLE = 5, 2
AREA = (0.02, 0.6)  # share of the frame that an object covers
BORDERS = 2  # that it touches at most
OBJECT, BACKGROUND = 0.7, 0.3  # share of the frames, above and below


def translation(before: jax.Array, after: jax.Array, reach: int, least: float = 0.1) -> jax.Array:
    """How far the content of a grey image [H, W] moved in another: int32 [2], down and right, `reach` pixels at most.

    The shift by which what both show differs least, each pixel by `least` at most, so that what moves by itself counts
    for little.
    """
    steps = jnp.arange(-reach, reach + 1)
    shifts = jnp.stack(jnp.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)

    def cost(shift):
        seen = _overlap(before.shape, shift)
        gap = jnp.minimum(jnp.abs(before - jnp.roll(after, -shift, (0, 1))), least)
        return jnp.sum(jnp.where(seen, gap, 0.0)) / jnp.sum(seen)

    # Of shifts that fit as well, as over an even ground, the shortest.
    costs = jax.lax.map(cost, shifts) + 1e-6 * jnp.sum(jnp.square(shifts), -1)
    return shifts[jnp.argmin(costs)]


def _overlap(shape: tuple[int, ...], shift: jax.Array) -> jax.Array:
    """Pixels [H, W] whose place after a shift is inside."""
    down, right = (jnp.arange(side) + by for side, by in zip(shape, shift, strict=True))
    return ((down >= 0) & (down < shape[0]))[:, None] & ((right >= 0) & (right < shape[1]))


def moving(frame: jax.Array, other: jax.Array, threshold: float, reach: int) -> jax.Array:
    """Pixels of a frame [H, W, C] that another does not have where the camera's motion would put them: bool [H, W]."""
    shift = translation(frame.mean(-1), other.mean(-1), reach)
    gap = jnp.abs(frame - jnp.roll(other, -shift, (0, 1))).mean(-1)
    padded = jnp.pad(gap, 1, mode="edge")
    height, width = gap.shape
    smooth = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
    return (smooth > threshold) & _overlap(gap.shape, shift)


def largest_region(masks: jax.Array) -> jax.Array:
    """The largest connected region (of eight neighbours) of each mask, bool [n, H, W]."""
    n, height, width = masks.shape
    numbers = jnp.where(masks, 1 + jnp.arange(height * width, dtype=jnp.int32).reshape(height, width), 0)

    def spread(state):
        labels, _ = state
        # The highest number among neighbours, until no pixel changes.
        found = jax.lax.reduce_window(labels, 0, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")
        found = jnp.where(masks, found, 0)
        return found, jnp.any(found != labels)

    changed = jnp.any(masks)  # varies between replicas, as what follows it
    labels, _ = jax.lax.while_loop(lambda state: state[1], spread, (numbers, changed))
    flat = labels.reshape(n, -1)
    sizes = jax.vmap(lambda row: jnp.zeros(height * width + 1, jnp.int32).at[row].add(1).at[0].set(0))(flat)
    return (flat == sizes.argmax(1)[:, None]).reshape(masks.shape) & masks


def plausible(masks: jax.Array) -> jax.Array:
    """Which masks [n, H, W] can be an object: neither too small nor too large, at no more than two borders."""
    share = masks.mean((1, 2))
    borders = sum(edge.any(1).astype(int) for edge in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]))
    return (share > AREA[0]) & (share < AREA[1]) & (borders <= BORDERS)


def motion_targets(clips: jax.Array, threshold: float, reach: int) -> tuple[jax.Array, jax.Array]:
    """What moves in the middle frame of clips.

    Args:
      clips: frames [n, 5, H, W, C], 0 to 1.
      threshold: least difference of a pixel that moves.
      reach: largest motion of the camera from frame to frame, pixels.

    Returns:
      bool [n, H, W] which pixels are of the object, and which ones [n, H, W] are told: none of a clip with fewer than
      three frames in which an object was found.
    """
    n, frames, height, width = clips.shape[:4]
    other = jnp.concatenate([clips[:, 1:], clips[:, -2:-1]], 1)  # the frame after, of the last the one before
    flat = [x.reshape(-1, *x.shape[2:]) for x in (clips, other)]
    masks = largest_region(jax.vmap(lambda a, b: moving(a, b, threshold, reach))(*flat))
    good = plausible(masks).reshape(n, frames)
    masks = masks.reshape(n, frames, height, width)
    count = good.sum(1)
    share = jnp.sum(masks & good[..., None, None], 1) / jnp.maximum(count, 1)[:, None, None]
    told = ((share > OBJECT) | (share < BACKGROUND)) & (count >= 3)[:, None, None]
    return share > OBJECT, told


def mask_loss(logits: jax.Array, objects: jax.Array, told: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Logistic loss, the mean over the pixels [n, H, W] of the global batch that are told."""
    costs = jnp.where(told, jax.nn.softplus(jnp.where(objects, -logits, logits)), 0.0)
    count = told.mean(dtype=jnp.float32)
    count = count if axis_name is None else jax.lax.pmean(count, axis_name)
    return costs.mean() / jnp.maximum(count, 1e-9)


class MaskHead(nn.Module):
    """One linear layer from a whole map to a coarse mask.

    Attributes:
      side: of the mask, pixels.
      size: to which it is enlarged, bilinearly.
    """

    side: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [n, h, w, D] -> float32 [n, size, size]
        del train
        x = nn.Dense(self.side**2, kernel_init=torch_uniform, name="linear")(x.reshape(len(x), -1).astype(jnp.float32))
        return jax.image.resize(x.reshape(-1, self.side, self.side), (len(x), self.size, self.size), "bilinear")


@dataclasses.dataclass(frozen=True)
class WatchingObjectsMove(Method):
    """Segmentation of what moves, from a single frame."""

    needs = frozenset({"clips"})

    view: View = View(size=224, area=(0.5, 1.0), flip=0.5, shared=True)  # noqa: RUF009
    stride: int = 1  # frames from one to the next
    threshold: float = 0.1  # least difference of a pixel that moves, of the range of values
    reach: int = 8  # largest motion of the camera from frame to frame, pixels
    side: int = 56  # of the coarse mask, pixels

    pools_map = True

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        return Clips.of(data, "watching_objects_move", info.batch_size, FRAMES, self.stride)

    def _parts(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "head": MaskHead(self.side, self.view.size)}

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        params, stats = initialise(self._parts(), rng, batch["view"], pool=False)
        return params, {"stats": stats}

    def _segmented(self, params, stats, frames, train):
        """Logits [n, S, S] of frames, their pooled features and the running statistics."""
        parts = self._parts()
        h, stats = apply(parts["backbone"], "backbone", params, stats, frames, train=train, pool=False)
        logits, stats = apply(parts["head"], "head", params, stats, h, train=train)
        return logits, h.mean((1, 2)), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        x = batch["view"]  # [n, 5, S, S, C]
        objects, told = motion_targets(jax.lax.stop_gradient(pixels(self.view, x)), self.threshold, self.reach)
        logits, h, stats = self._segmented(params, state["stats"], x[:, MIDDLE], train)
        found = (logits > 0) & told
        both, either, whole = dist.mean(
            tuple(m.mean(dtype=jnp.float32) for m in (found & objects, (found | objects) & told, told))
        )
        share = dist.mean(jnp.mean(objects & told, dtype=jnp.float32))
        metrics = {
            "object_iou": Metric(both / jnp.maximum(either, 1e-9), chance=share / jnp.maximum(whole, 1e-9)),
            "pixels_told": Metric(whole, kind="value"),
        }
        aux = Aux(metrics, jax.lax.stop_gradient(h), batch["label"][:, MIDDLE])
        return mask_loss(logits, objects, told, dist.AXIS), ({"stats": stats}, aux)

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Frames, what moves in them (grey: not told), and what the network takes for an object."""
        del rng
        x = batch["view"][:8]
        shown = pixels(self.view, x).clip(0, 1)
        objects, told = motion_targets(shown, self.threshold, self.reach)
        logits, _, _ = self._segmented(params, state["stats"], x[:, MIDDLE], False)
        masks = (jnp.where(told, objects, 0.5), jax.nn.sigmoid(logits))
        colours = [jnp.broadcast_to(m[..., None], shown[:, MIDDLE].shape) for m in masks]
        grid = np.stack([np.asarray(c) for c in (shown[:, MIDDLE], *colours)], 1)
        return [Picture("What moves, from a single frame", ("frame", "moved", "network"), grid)]

    def chance(self, info: Info) -> float:
        """Every pixel may as well be one as the other."""
        del info
        return math.log(2)
