"""Depth of every pixel: how right it is, and the losses that it is learnt with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BINS, FLOOR = 256, 0.1  # of `from_bins`; what is added to each rectified logit


class Scores(NamedTuple):
    """How right depths are, over all valid pixels of a data set (Eigen et al. 2014, sec. 4.3)."""

    delta1: float  # share of the pixels that are off by a factor below 1.25
    delta2: float  # below 1.25 ** 2
    delta3: float  # below 1.25 ** 3
    abs_rel: float  # mean of |d - d*| / d*
    sq_rel: float  # mean of (d - d*)^2 / d*
    rmse: float  # in the unit of the depths
    rmse_log: float
    log10: float  # mean of |log10 d - log10 d*|


def scores(predicted: np.ndarray, true: np.ndarray) -> Scores:
    """The usual measures.

    Args:
      predicted: depths above 0, of any shape.
      true: of the same shape; 0 or less where it is not known.
    """
    valid = true > 0
    d, t = predicted[valid].astype(np.float64), true[valid].astype(np.float64)
    factor, logs = np.maximum(d / t, t / d), np.log(d) - np.log(t)
    deltas = (float((factor < 1.25**k).mean()) for k in (1, 2, 3))
    errors = (
        (np.abs(d - t) / t).mean(),
        (np.square(d - t) / t).mean(),
        np.sqrt(np.square(d - t).mean()),
        np.sqrt(np.square(logs).mean()),
        np.abs(logs).mean() / np.log(10),
    )
    return Scores(*deltas, *(float(e) for e in errors))


def median_scale(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Factor [B] that brings the median of each prediction to that of the truth, for methods without a scale.

    Args:
      predicted: [B, H, W].
      true: [B, H, W]; 0 or less where it is not known.
    """
    valid = true > 0
    return np.array([np.median(t[v]) / np.median(p[v]) for p, t, v in zip(predicted, true, valid, strict=True)])


def eigen_loss(log_depth: jax.Array, true: jax.Array, weight: float = 0.5) -> jax.Array:
    """The scale-invariant loss of Eigen et al. 2014 (eq. 4), mean over the images.

    Args:
      log_depth: logarithm of the predicted depth [B, H, W].
      true: depth [B, H, W]; 0 or less where it is not known.
      weight: lambda: 0 is the squared error of the logarithm, 1 forgives any scale.
    """
    valid = true > 0
    gap = jnp.where(valid, log_depth - jnp.log(jnp.where(valid, true, 1.0)), 0.0)
    count = jnp.maximum(valid.sum((1, 2)), 1)
    mean = gap.sum((1, 2)) / count
    return jnp.mean(jnp.square(gap).sum((1, 2)) / count - weight * jnp.square(mean))


def from_bins(logits: jax.Array, nearest: float, furthest: float) -> jax.Array:
    """Depth as the mean over bins of equal width, as DINOv2's linear head has it (`classify`, 'linear' norm).

    Args:
      logits: [..., bins].
      nearest: centre of the first bin.
      furthest: centre of the last bin.

    Returns:
      depths [...].
    """
    weights = jax.nn.relu(logits) + FLOOR
    centres = jnp.linspace(nearest, furthest, logits.shape[-1])
    return (weights * centres).sum(-1) / weights.sum(-1)


def sig_loss(depth: jax.Array, true: jax.Array, *, warm: bool = False) -> jax.Array:
    """DINOv2's loss of a depth [B, H, W]: the root of variance and mean of the log error over all valid pixels.

    Args:
      depth: predicted, above 0.
      true: 0 or less where it is not known.
      warm: leave out the variance, as the authors do in the first 100 updates.
    """
    valid = true > 0
    gap = jnp.where(valid, jnp.log(depth + 1e-3) - jnp.log(jnp.where(valid, true, 1.0) + 1e-3), 0.0)
    count = valid.sum()
    mean = gap.sum() / jnp.maximum(count, 1)
    variance = jnp.square(jnp.where(valid, gap - mean, 0.0)).sum() / jnp.maximum(count - 1, 1)
    return jnp.sqrt((0.0 if warm else variance) + 0.15 * jnp.square(mean) + 1e-12)
