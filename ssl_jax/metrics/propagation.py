"""Masks carried along a video by the likeness of patches (Jabri et al. 2020, DINO's `eval_video_segmentation.py`).

And how right they are: the region's J and the contour's F of DAVIS (Perazzi et al. 2016, sec. 4).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

TEMPERATURE = 0.1
NEIGHBOURS = 5  # patches that a patch takes its label from, of all frames together
FRAMES = 7  # that are remembered beside the first
RADIUS = 12  # patches, of the square within which they lie
_BOUND = 0.008  # of the diagonal: how far contours may lie apart


@functools.partial(jax.jit, static_argnames=("shape", "radius", "neighbours"))
def propagate(
    target: jax.Array,
    sources: jax.Array,
    masks: jax.Array,
    *,
    shape: tuple[int, int],
    radius: int = RADIUS,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> jax.Array:
    """The soft mask of a frame from those of frames before it.

    Args:
      target: features [p, D] of its patches, row by row.
      sources: features [t, p, D] of the earlier frames.
      masks: soft masks [t, p, K] of the earlier frames.
      shape: rows and columns of the patches; p is their product.
      radius: patches, of the square that a patch may take its label from; 0: anywhere.
      neighbours: patches that vote; more where the last are equally like it.
      temperature: of exp(cosine / T).

    Returns:
      soft mask [p, K].
    """
    unit = [x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (target, sources)]
    like = jnp.exp(jnp.einsum("pd,tqd->ptq", *unit, precision="highest") / temperature)
    if radius:
        places = jnp.stack(jnp.divmod(jnp.arange(len(target)), shape[1]), -1)
        near = (jnp.abs(places[:, None] - places) <= radius).all(-1)
        like *= near[:, None]
    like = like.reshape(len(target), -1)
    # Fewer patches than `neighbours` may lie within the radius.
    least = jax.lax.top_k(like, min(neighbours, like.shape[1]))[0][:, -1:]
    like = jnp.where(like < least, 0.0, like)
    weights = like / like.sum(-1, keepdims=True)
    return jnp.matmul(weights, masks.reshape(-1, masks.shape[-1]), precision="highest")


def stretched(mask: np.ndarray) -> np.ndarray:
    """Each channel of a soft mask [H, W, K] brought to 0 to 1, the background too (the authors' `norm_mask`)."""
    low, high = mask.min((0, 1)), mask.max((0, 1))
    return np.where(high > 0, (mask - low) / np.maximum(high - low, 1e-12), mask)


def carried(features: np.ndarray, first: np.ndarray, classes: int) -> np.ndarray:
    """Carries the mask of a video's first frame to all others.

    Args:
      features: maps [T, h, w, D] of the frames.
      first: mask of the first frame [H, W], integers in [0, classes); H and W are multiples of h and w.
      classes: K.

    Returns:
      masks uint8 [T, H, W]; the first as given.
    """
    count, h, w, _ = features.shape
    size = first.shape
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip((h, w), size, strict=True))
    flat = features.reshape(count, h * w, -1)
    kept = [np.eye(classes, dtype=np.float32)[first[rows][:, columns].reshape(-1)]]
    found = [first.astype(np.uint8)]
    for t in range(1, count):
        past = [0, *range(max(1, t - FRAMES), t)]
        soft = propagate(flat[t], flat[past], np.stack([kept[i] for i in past]), shape=(h, w))
        kept.append(np.asarray(soft))
        large = jax.image.resize(soft.reshape(h, w, classes), (*size, classes), "bilinear", antialias=False)
        found.append(stretched(np.asarray(large)).argmax(-1).astype(np.uint8))
    return np.stack(found)


def region(predicted: np.ndarray, true: np.ndarray) -> float:
    """J: intersection over union of two masks bool [H, W]; 1 where both are empty."""
    union = (predicted | true).sum()
    return float((predicted & true).sum() / union) if union else 1.0


def contour(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask bool [H, W] whose neighbour below, right or between is of the other side."""
    m = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (m[:-1, :-1] ^ m[:-1, 1:]) | (m[:-1, :-1] ^ m[1:, :-1]) | (m[:-1, :-1] ^ m[1:, 1:])


def boundary(predicted: np.ndarray, true: np.ndarray) -> float:
    """F: harmonic mean of the shares of both contours that lie near the other (davis2017-evaluation's `f_measure`)."""
    reach = int(np.ceil(_BOUND * np.linalg.norm(true.shape)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = y * y + x * x <= reach * reach
    edges = contour(predicted), contour(true)
    counts = [int(e.sum()) for e in edges]
    if not all(counts):
        return float(counts[0] == counts[1])
    near = [ndimage.binary_dilation(e, disk) for e in edges]
    precision, recall = (edges[0] & near[1]).sum() / counts[0], (edges[1] & near[0]).sum() / counts[1]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
