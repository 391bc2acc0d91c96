"""CenterNet (Zhou et al. 2019): an object is the peak of a heat map. Targets, losses and answers, of fixed shapes.

Follows xyzhou's `lib/utils/image.py`, `lib/models/losses.py` and `lib/models/decode.py`. Boxes are [n, 5]: top, left,
bottom, right in pixels of the map, and a class; all -1 in rows that are no box.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

OVERLAP = 0.7  # a centre within the radius still gives a box that overlaps so much
SIZE_WEIGHT = 0.1  # of the loss of sizes; that of offsets weighs 1


class Targets(NamedTuple):
    """What one image is to be answered with."""

    heat: jax.Array  # [h, w, C] 1 at the centres, Gaussians around them
    place: jax.Array  # int32 [n] of the centre's pixel, row by row
    size: jax.Array  # [n, 2] height and width
    offset: jax.Array  # [n, 2] of the centre from its pixel, down and right
    known: jax.Array  # bool [n]


class Answer(NamedTuple):
    """What the head says of images."""

    heat: jax.Array  # logits [B, h, w, C]
    size: jax.Array  # [B, h, w, 2]
    offset: jax.Array  # [B, h, w, 2]


def radius(height: jax.Array, width: jax.Array) -> jax.Array:
    """Radius of an object's Gaussian, pixels.

    The smallest of three roots, in the authors' code (b + sqrt(b^2 - 4ac)) / 2: a division by `a` is missing.
    """
    total, area = height + width, height * width
    pairs = (
        (1.0, total, area * (1 - OVERLAP) / (1 + OVERLAP)),
        (4.0, 2 * total, (1 - OVERLAP) * area),
        (4 * OVERLAP, -2 * OVERLAP * total, (OVERLAP - 1) * area),
    )
    roots = [(b + jnp.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in pairs]
    return jnp.minimum(jnp.minimum(roots[0], roots[1]), roots[2])


def targets(boxes: jax.Array, shape: tuple[int, int], classes: int) -> Targets:
    """Draws the targets of one image.

    Args:
      boxes: [n, 5], within the map.
      shape: height and width of the map.
      classes: C.
    """
    corners, size = boxes[:, :4].astype(jnp.float32), boxes[:, 2:4] - boxes[:, :2]
    known = (boxes[:, 4] >= 0) & (size > 0).all(-1)
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    pixel = jnp.clip(jnp.floor(centre), 0, jnp.array(shape) - 1)
    reach = jnp.floor(jnp.maximum(radius(*jnp.ceil(jnp.maximum(size, 1e-3)).T), 0))
    sigma = (2 * reach + 1) / 6
    away = [jnp.arange(side) - place[:, None] for side, place in zip(shape, pixel.T, strict=True)]
    near = (jnp.abs(away[0]) <= reach[:, None])[:, :, None] & (jnp.abs(away[1]) <= reach[:, None])[:, None]
    squared = jnp.square(away[0])[:, :, None] + jnp.square(away[1])[:, None]
    bumps = jnp.where(near, jnp.exp(-squared / (2 * jnp.square(sigma))[:, None, None]), 0.0)  # [n, h, w]
    of_class = (boxes[:, 4:5] == jnp.arange(classes)) & known[:, None]
    heat = jnp.max(bumps[..., None] * of_class[:, None, None], axis=0)
    place = (pixel[:, 0] * shape[1] + pixel[:, 1]).astype(jnp.int32)
    return Targets(heat, jnp.where(known, place, 0), size, centre - pixel, known)


def focal_loss(logits: jax.Array, heat: jax.Array) -> jax.Array:
    """The focal loss of heat maps [B, h, w, C], a sum over all of the batch by the number of its objects."""
    p = jnp.clip(jax.nn.sigmoid(logits), 1e-4, 1 - 1e-4)
    peak = heat >= 1
    losses = jnp.where(peak, (1 - p) ** 2 * jnp.log(p), (1 - heat) ** 4 * p**2 * jnp.log1p(-p))
    return -losses.sum() / jnp.maximum(peak.sum(), 1)


def l1_loss(predicted: jax.Array, true: jax.Array, known: jax.Array) -> jax.Array:
    """Mean absolute error of the coordinates of known objects; [B, n, 2], [B, n, 2] and bool [B, n].

    The authors' divides by the number of coordinates, two an object.
    """
    return jnp.sum(jnp.abs(predicted - true), where=known[..., None]) / (2 * known.sum() + 1e-4)


def loss(answer: Answer, wanted: Targets) -> jax.Array:
    """The whole loss; `wanted` has the images of the batch as first axis."""

    def at(values: jax.Array) -> jax.Array:
        flat = values.reshape(len(values), -1, values.shape[-1])
        return jnp.take_along_axis(flat, wanted.place[..., None], 1)

    size = l1_loss(at(answer.size), wanted.size, wanted.known)
    offset = l1_loss(at(answer.offset), wanted.offset, wanted.known)
    return focal_loss(answer.heat, wanted.heat) + SIZE_WEIGHT * size + offset


def decode(answer: Answer, most: int) -> tuple[jax.Array, jax.Array]:
    """Boxes of the highest peaks, without suppression of others.

    Args:
      answer: of images.
      most: n, peaks an image.

    Returns:
      boxes [B, n, 5] in pixels of the map, and their confidences [B, n], falling.
    """
    batch, height, width, classes = answer.heat.shape
    heat = jax.nn.sigmoid(answer.heat)
    around = jax.lax.reduce_window(heat, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    peaks = jnp.where(heat == around, heat, 0.0)
    score, place = jax.lax.top_k(peaks.reshape(batch, -1), most)
    kind, pixel = place % classes, place // classes

    def at(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values.reshape(batch, height * width, 2), pixel[..., None], 1)

    centre = jnp.stack([pixel // width, pixel % width], -1) + at(answer.offset)
    half = at(answer.size) / 2
    return jnp.concatenate([centre - half, centre + half, kind[..., None]], -1), score
