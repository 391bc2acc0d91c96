"""Surface normals of every pixel: how right they are, and the loss that they are learnt with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Scores(NamedTuple):
    """Angles between predicted and true normals, over all valid pixels of a data set (Fouhey et al. 2013)."""

    mean_angle: float  # degrees
    median_angle: float  # degrees
    within_11: float  # share of the pixels within 11.25 degrees
    within_22: float  # 22.5 degrees
    within_30: float


def scores(predicted: np.ndarray, true: np.ndarray) -> Scores:
    """The usual measures.

    Args:
      predicted: [..., 3], of any length above 0.
      true: unit vectors [..., 3]; of another length where they are not known.
    """
    valid = np.abs(np.linalg.norm(true, axis=-1) - 1) < 1e-2
    p, t = predicted[valid].astype(np.float64), true[valid].astype(np.float64)
    cosine = (p * t).sum(-1) / np.maximum(np.linalg.norm(p, axis=-1) * np.linalg.norm(t, axis=-1), 1e-12)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    shares = (float((angle < limit).mean()) for limit in (11.25, 22.5, 30))
    return Scores(float(angle.mean()), float(np.median(angle)), *shares)


def loss(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """Mean over the valid pixels of one minus the cosine of the angle.

    Args:
      predicted: [B, H, W, 3], of any length.
      true: unit vectors [B, H, W, 3]; of another length where they are not known.
    """
    valid = jnp.abs(jnp.square(true).sum(-1) - 1) < 0.02
    unit = predicted * jax.lax.rsqrt(jnp.square(predicted).sum(-1, keepdims=True) + 1e-12)
    return jnp.sum(1 - (unit * true).sum(-1), where=valid) / jnp.maximum(valid.sum(), 1)
