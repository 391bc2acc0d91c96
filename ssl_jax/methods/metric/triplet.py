"""Triplet loss: an image is nearer to those of its class than to others, by a margin.

Schroff et al. 2015 (FaceNet, arXiv 1503.03832), and the variants that are in use, each with its own name since no one
is a rescaling of another. D is the Euclidean distance of embeddings on the unit sphere, or with `squared` its square as
in FaceNet's code; gap = D_an - D_ap:

- 'every': all triplets of the batch, the mean over all of them, zeros counted (FaceNet, eq. 3);
- 'all', 'semihard' (0 < gap <= margin) and 'hard' (gap <= 0): all triplets of the batch that the condition lets
  through, the mean over those whose loss is not zero (pytorch-metric-learning's miners and reducer);
- 'nearest_semihard': for each pair the nearest negative that is further than the positive, the furthest one where
  there is none; the mean over pairs, zeros counted (tensorflow-addons);
- 'batch_hard': each anchor's furthest positive and nearest negative, the mean over anchors (Hermans et al. 2017, arXiv
  1703.07737); with `margin` 0 a softplus takes the place of the hinge.

A batch has P classes with K images each; positives and negatives come from all devices.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.methods.contract import Info, Metric
from ssl_jax.methods.shared.embedding import Embedding, Rows, distances
from ssl_jax.runtime.errors import UserError

MINING = ("every", "all", "semihard", "hard", "nearest_semihard", "batch_hard")


def triplet_loss(
    own: Rows, *, margin: float, mining: str, squared: bool = False, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """The loss of this replica's anchors, and the share of them with a triplet that violates the margin.

    Args:
      own: embeddings of this replica; normalised inside.
      margin: m, of distances.
      mining: one of `MINING`.
      squared: compare squared distances.
      axis_name: mapped axis over which positives and negatives are gathered; None for this replica's alone. The mean
        over replicas of the loss is that of the global batch.
    """
    own = own._replace(z=losses.l2_normalize(own.z))
    others = own.gathered(axis_name)
    distance = distances(own.z, others.z, squared=squared)
    positive, negative = own.positives(others), own.negatives(others)
    if mining == "batch_hard":
        found, counted = _batch_hard(distance, positive, negative, margin)
    elif mining == "nearest_semihard":
        found, counted = _nearest_semihard(distance, positive, negative, margin)
    else:
        found, counted = _mined(distance, positive, negative, margin, mining)
    nearest = jnp.min(jnp.where(negative, distance, jnp.inf), 1)
    furthest = jnp.max(jnp.where(positive, distance, -jnp.inf), 1)
    return losses.mean_where(found, counted, axis_name), jnp.mean(nearest - furthest < margin, dtype=jnp.float32)


def _batch_hard(distance: jax.Array, positive: jax.Array, negative: jax.Array, margin: float) -> Any:
    """Loss [n] of each anchor, and which have both a positive and a negative."""
    furthest = jnp.max(jnp.where(positive, distance, 0.0), 1)
    nearest = jnp.min(jnp.where(negative, distance, 4.0), 1)  # no distance is larger, squared or not
    gap = furthest - nearest
    found = jnp.maximum(gap + margin, 0.0) if margin else jax.nn.softplus(gap)
    return found, positive.any(1) & negative.any(1)


def _nearest_semihard(distance: jax.Array, positive: jax.Array, negative: jax.Array, margin: float) -> Any:
    """Loss [n, N] of each pair."""
    further = negative[:, None, :] & (distance[:, None, :] > distance[:, :, None])
    outside = jnp.min(jnp.where(further, distance[:, None, :], jnp.inf), -1)
    inside = jnp.max(jnp.where(negative, distance, 0.0), 1)[:, None]
    chosen = jnp.where(further.any(-1), outside, inside)
    return jnp.maximum(distance - chosen + margin, 0.0), positive & negative.any(1)[:, None]


def _mined(distance: jax.Array, positive: jax.Array, negative: jax.Array, margin: float, mining: str) -> Any:
    """Loss [n, N, N] of each triplet, and which of them count."""
    gap = distance[:, None, :] - distance[:, :, None]  # [anchor, positive, negative]
    found, valid = jnp.maximum(margin - gap, 0.0), positive[:, :, None] & negative[:, None, :]
    if mining == "every":
        return found, valid
    wanted = {"all": gap <= margin, "semihard": (gap > 0) & (gap <= margin), "hard": gap <= 0}[mining]
    return found, valid & wanted & (found > 0)


@dataclasses.dataclass(frozen=True)
class Triplet(Embedding):
    """Metric learning by triplets of a batch of classes and images."""

    mining: str = "semihard"
    margin: float = 0.2  # FaceNet sec. 3.1
    squared: bool = False  # compare squared distances, as FaceNet's code

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.mining not in MINING:
            raise UserError(f"config.method.mining is '{self.mining}': use one of {', '.join(MINING)}.")

    def compare_rows(self, own, axis_name=None):
        options: dict[str, Any] = {"margin": self.margin, "mining": self.mining, "squared": self.squared}
        loss, active = triplet_loss(own, **options, axis_name=axis_name)
        return loss, {"active_anchors": Metric(active, kind="value")}

    def chance(self, info: Info) -> float:
        """All images fall together, which is the way to fail: the margin, or ln 2 of the softplus."""
        del info
        return self.margin or math.log(2)

    def best(self, info: Info) -> float:
        """Classes are far apart."""
        return 0.0 if self.margin else math.log1p(math.exp(-2.0 if self.squared else -math.sqrt(2)))
