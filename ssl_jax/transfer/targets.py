"""The tasks that a frozen backbone is tried on: those of the data's fields, and pretext tasks of the images alone."""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.evals.context import Images
from ssl_jax.metrics import boundaries, depth, normals
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.runtime.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]  # of the training and the test images
Loss = Callable[[jax.Array, jax.Array], jax.Array]  # of answers and truths [B, ...] to one number an image [B]

_GREY = np.array([0.299, 0.587, 0.114])
_SHRUNK = 4  # targets that are images are so many times smaller


@dataclasses.dataclass(frozen=True)
class Target:
    """One task.

    Attributes:
      truth: of the training and the test images.
      out: channels of the answer.
      loss: of each image.
      of: what the backbone sees: 'image', 'grey', 'hole' or 'turned', a key of `SEEN`.
      dense: whether the answer is a map, of the truth's size.
      pairs: whether the answer is of two images that follow each other.
      shots: so many labelled images of each class alone are learnt from; 0: all.
    """

    truth: Pair
    out: int
    loss: Loss
    of: str = "image"
    dense: bool = False
    pairs: bool = False
    shots: int = 0


def of(images: Images, seed: int) -> dict[str, Target]:
    """All targets that a data set has, by name.

    Args:
      images: training and test split, in memory.
      seed: of the turns.
    """
    return _of_labels(images) | _of_fields(images) | _pretext(images, seed)


def _of_labels(images: Images) -> dict[str, Target]:
    labels: Pair = (images[0].labels, images[1].labels)
    classes = len(images[0].classes)
    if classes < 2 or any((y < 0).any() for y in labels):
        return {}
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return {"class": Target(labels, classes, entropy), "few_shot": Target(labels, classes, entropy, shots=5)}


def _of_fields(images: Images) -> dict[str, Target]:
    def both(name: str, kind: type) -> Pair:
        return np.asarray(images[0].fields[name]).astype(kind), np.asarray(images[1].fields[name]).astype(kind)

    has = set(images[0].fields) & set(images[1].fields)
    found = {}
    if "mask" in has:
        masks = both("mask", np.int32)
        classes = len(images[0].card.mask_classes) or 1 + int(max(m[m != IGNORE].max(initial=0) for m in masks))
        found["segmentation"] = Target(masks, classes, _pixel_entropy, dense=True)
    if "depth" in has:
        found["depth"] = Target(both("depth", np.float32), 1, _each(_depth), dense=True)
    if "normals" in has:
        found["normals"] = Target(both("normals", np.float32), 3, _each(normals.loss), dense=True)
    if "boundary" in has:
        found["boundaries"] = Target(both("boundary", np.float32), 1, _each(_boundary), dense=True)
    if "motion" in has:
        motion = both("motion", np.float32)
        scale = motion[0].std(0)
        firsts = motion[0][::2] / scale, motion[1][::2] / scale
        found["motion"] = Target(firsts, motion[0].shape[-1], _squares, pairs=True)
    return found


def _pretext(images: Images, seed: int) -> dict[str, Target]:
    """Tasks that the images set themselves: those of rotation, colorization, autoencoders and context encoders."""
    small: Pair = (_shrunk(images[0].images), _shrunk(images[1].images))
    height, width = small[0].shape[1:3]
    found = {"autoencoding": Target(small, small[0].shape[-1], _squares, dense=True)}
    if height == width:
        turns = tuple(np.random.default_rng([seed, i]).integers(0, 4, len(d)) for i, d in enumerate(images))
        entropy = optax.softmax_cross_entropy_with_integer_labels
        found["rotation"] = Target((turns[0], turns[1]), 4, entropy, "turned")
    if small[0].shape[-1] == 3:
        chroma = tuple(x - (x @ _GREY)[..., None] for x in small)
        found["colorization"] = Target((chroma[0], chroma[1]), 3, _squares, "grey", dense=True)
    hidden = []
    for x in small:
        inside = np.full_like(x, np.nan)
        rows, columns = (slice(side // 4, side - side // 4) for side in (height, width))
        inside[:, rows, columns] = x[:, rows, columns]
        hidden.append(inside)
    found["inpainting"] = Target((hidden[0], hidden[1]), small[0].shape[-1], _known_squares, "hole", dense=True)
    return found


def seen(images: np.ndarray, of: str, turns: np.ndarray | None = None) -> np.ndarray:
    """What the backbone sees of images uint8 [N, H, W, C].

    Args:
      images: as they are.
      of: 'image'; 'grey': without colours; 'hole': without the middle, half as high and wide; 'turned'.
      turns: [N] of the last, in quarters.
    """
    if of == "image":
        return images
    if of == "grey":
        return np.repeat(np.round(images @ _GREY)[..., None], 3, -1).astype(np.uint8)
    if of == "hole":
        found, (height, width) = images.copy(), images.shape[1:3]
        found[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 128
        return found
    if turns is None:
        raise UserError("Images are turned by a number of quarters each.")
    return np.stack([np.rot90(image, turn) for image, turn in zip(images, turns, strict=True)])


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Means float32 of squares of `_SHRUNK` pixels, from 0 to 1."""
    n, height, width, channels = images.shape
    h, w = height // _SHRUNK, width // _SHRUNK
    cut = images[:, : h * _SHRUNK, : w * _SHRUNK].reshape(n, h, _SHRUNK, w, _SHRUNK, channels)
    return (cut.mean((2, 4)) / 255).astype(np.float32)


def _each(loss: Loss) -> Loss:
    """A mean loss of a batch as one of each image."""
    return jax.vmap(lambda x, y: loss(x[None], y[None]))


def _depth(x: jax.Array, truth: jax.Array) -> jax.Array:
    return depth.eigen_loss(x[..., 0], truth)


def _boundary(x: jax.Array, truth: jax.Array) -> jax.Array:
    return boundaries.balanced_loss(x[..., 0], truth)


def _pixel_entropy(logits: jax.Array, masks: jax.Array) -> jax.Array:
    known = masks < logits.shape[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, masks, 0))
    return jnp.where(known, losses, 0).sum((1, 2)) / jnp.maximum(known.sum((1, 2)), 1)


def _squares(x: jax.Array, truth: jax.Array) -> jax.Array:
    return jnp.square(x - truth).reshape(len(x), -1).mean(1)


def _known_squares(x: jax.Array, truth: jax.Array) -> jax.Array:
    known = ~jnp.isnan(truth)
    gap = jnp.where(known, x - jnp.where(known, truth, 0), 0)
    return jnp.square(gap).sum((1, 2, 3)) / known.sum((1, 2, 3))
