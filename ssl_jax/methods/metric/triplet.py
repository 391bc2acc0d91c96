"""Triplet loss: an image is nearer to those of its class than to others, by a margin.

Schroff et al. 2015 (FaceNet, arXiv 1503.03832), and the variants that are in use, each with its own name since no one
is a rescaling of another. D is the Euclidean distance of embeddings on the unit sphere, gap = D_an - D_ap:

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

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import PerClass, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

MINING = ("all", "semihard", "hard", "nearest_semihard", "batch_hard")


def distances(z: jax.Array, others: jax.Array) -> jax.Array:
    """Euclidean distances [n, N] of rows of unit length [n, D] and [N, D], whose slope is finite at zero too."""
    return jnp.sqrt(jnp.maximum(2 - 2 * losses.similarity(z, others), 1e-12))


def triplet_loss(
    z: jax.Array,
    labels: jax.Array,
    rows: jax.Array,
    *,
    margin: float,
    mining: str,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The loss of this replica's anchors, and the share of them with a triplet that violates the margin.

    Args:
      z: embeddings [n, D]; normalised inside.
      labels: class [n] of each.
      rows: number [n] of each in the global batch: an image is no positive of its own.
      margin: m, of distances.
      mining: one of `MINING`.
      axis_name: mapped axis over which positives and negatives are gathered; None for this replica's alone. The mean
        over replicas of the loss is that of the global batch.
    """
    z = losses.l2_normalize(z)
    others, their, theirs = z, labels, rows
    if axis_name is not None:
        others, their, theirs = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (z, labels, rows))
    distance = distances(z, others)
    positive = (labels[:, None] == their) & (rows[:, None] != theirs)
    negative = labels[:, None] != their
    if mining == "batch_hard":
        found, counted = _batch_hard(distance, positive, negative, margin)
    elif mining == "nearest_semihard":
        found, counted = _nearest_semihard(distance, positive, negative, margin)
    else:
        found, counted = _mined(distance, positive, negative, margin, mining)
    count = counted.sum()
    if axis_name is not None:
        count = jax.lax.pmean(count, axis_name)
    loss = jnp.sum(jnp.where(counted, found, 0.0)) / jnp.maximum(count, 1e-9)
    nearest = jnp.min(jnp.where(negative, distance, jnp.inf), 1)
    furthest = jnp.max(jnp.where(positive, distance, -jnp.inf), 1)
    return loss, jnp.mean(nearest - furthest < margin, dtype=jnp.float32)


def _batch_hard(distance: jax.Array, positive: jax.Array, negative: jax.Array, margin: float) -> Any:
    furthest = jnp.max(jnp.where(positive, distance, 0.0), 1)
    nearest = jnp.min(jnp.where(negative, distance, 2.0), 1)  # as far as it gets
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
    wanted = {"all": gap <= margin, "semihard": (gap > 0) & (gap <= margin), "hard": gap <= 0}[mining]
    found = jnp.maximum(margin - gap, 0.0)
    return found, positive[:, :, None] & negative[:, None, :] & wanted & (found > 0)


@dataclasses.dataclass(frozen=True)
class Triplet(Method):
    """Metric learning by triplets of a batch of classes and images."""

    needs = frozenset({"labels"})

    view: View = recipes.ROTNET  # crop and flip
    out: int = 128  # width of the embedding, FaceNet sec. 4
    images_per_class: int = 4  # K, pytorch-metric-learning's reality check
    mining: str = "semihard"
    margin: float = 0.2  # FaceNet sec. 3.1

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.mining not in MINING:
            raise UserError(f"config.method.mining is '{self.mining}': use one of {', '.join(MINING)}.")

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if info.batch_size % self.images_per_class:
            raise UserError(
                f"config.batch_size is {info.batch_size}, which {self.images_per_class} images per class "
                "(config.method.images_per_class) do not divide: make it a multiple."
            )
        return PerClass(data.labels, info.batch_size // self.images_per_class, self.images_per_class)

    def _embedding(self) -> nn.Module:
        return MLP((), self.out, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        params, stats = initialise({"backbone": self.backbone, "embedding": self._embedding()}, rng, batch["view"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step, info
        h, stats = apply(self.backbone, "backbone", params, state["stats"], batch["view"], train=train)
        z, stats = apply(self._embedding(), "embedding", params, stats, h, train=train)
        options: dict[str, Any] = {"margin": self.margin, "mining": self.mining, "axis_name": dist.AXIS}
        loss, active = triplet_loss(z, batch["label"], batch["position"], **options)
        std = Metric(losses.spread(z, dist.AXIS), kind="std")
        metrics = {"active_anchors": Metric(active, kind="value"), "embedding_std": std}
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def chance(self, info: Info) -> float:
        """All images fall together, which is the way to fail: the margin, or ln 2 of the softplus."""
        del info
        return self.margin or math.log(2)

    def best(self, info: Info) -> float:
        """Classes are far apart."""
        return 0.0 if self.margin else math.log1p(math.exp(-math.sqrt(2)))
