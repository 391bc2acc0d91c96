"""Boundaries of things: the loss that they are learnt with, and how right they are."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

TRUE = 0.5  # share of the annotators from which on a pixel is a boundary
TOLERANCE = 2  # pixels that a predicted boundary may lie beside a true one
UNKNOWN = -1.0


def balanced_loss(logits: jax.Array, truth: jax.Array) -> jax.Array:
    """Binary cross-entropy in which boundaries weigh as much as all the rest (HED, Xie & Tu 2015, eq. 2).

    Args:
      logits: [B, H, W].
      truth: share of the annotators that see a boundary [B, H, W]; negative where nothing is known.

    Returns:
      mean over the images of the mean over their known pixels.
    """
    known, edge = truth >= 0, truth >= TRUE
    count = jnp.maximum(known.sum((1, 2), keepdims=True), 1)
    rest = (known & ~edge).sum((1, 2), keepdims=True) / count  # beta: the share of what is no boundary
    losses = jnp.where(edge, rest * jax.nn.softplus(-logits), (1 - rest) * jax.nn.softplus(logits))
    return jnp.mean(jnp.where(known, losses, 0.0).sum((1, 2)) / count[:, 0, 0])


def average_precision(score: np.ndarray, truth: np.ndarray, tolerance: int = TOLERANCE) -> float:
    """Average precision of the pixels, where a boundary within a few pixels is right.

    This is not the F-measure at the optimal scale of BSDS500, which thins the prediction and assigns each of its pixels
    to a pixel of the truth. Here the truth is widened instead, by `tolerance` pixels, and every pixel counts.

    Args:
      score: [N, H, W], higher where a boundary is likelier.
      truth: [N, H, W] share of the annotators that see a boundary; negative where nothing is known.
      tolerance: in pixels, of the larger of both axes.
    """
    ring = np.ones((2 * tolerance + 1,) * 2, bool)
    wide = np.stack([ndimage.binary_dilation(t >= TRUE, ring) for t in truth])
    known = truth >= 0
    right = wide[known][np.argsort(-score[known], kind="stable")]
    if not right.any():
        return float("nan")
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].mean())
