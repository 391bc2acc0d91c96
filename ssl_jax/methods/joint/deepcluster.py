"""DeepCluster-v2: clustering the embeddings of an epoch, and predicting the clusters in the next.

The baseline of SwAV (arXiv 2006.09882, sec. 4 and App. C); the first version is `deepcluster_v1`. Follows the authors'
code (facebookresearch/swav, main_deepclusterv2.py): SwAV's networks and crops; before each epoch, ten iterations of
spherical k-means a head on a bank of the embeddings of one of the large crops (head i takes crop i mod 2), from rows
drawn at random; a cluster that loses all its rows keeps its centroid. Centroids are the head's prototypes and never
move otherwise. The bank is written by forward passes in training mode, before the first epoch by extra ones. There it
has the images of the last epoch only, and one that its last partial batch dropped is unassigned for an epoch; here
every image keeps the row it had.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Embed, Info, Method, Metric
from ssl_jax.methods.ranges import OrZero, Positive, Several
from ssl_jax.methods.shared import memory_bank, multicrop
from ssl_jax.methods.shared.kmeans import kmeans
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import initialise
from ssl_jax.runtime.errors import UserError

UNASSIGNED = -100


def clustering_loss(
    scores: jax.Array, assignments: jax.Array, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
    """Cross-entropy of all crops' predictions and their image's cluster, the mean over the assigned rows.

    Args:
      scores: cosines of V crops and the prototypes, [n, V, K].
      assignments: cluster of each image [n]; `UNASSIGNED` is left out.
      temperature: T, divides the scores.
      axis_name: mapped axis whose replicas share the number of assigned rows, so that the mean over them is that of
        the global batch; None for this replica's alone.
    """
    known = assignments != UNASSIGNED
    log_p = jax.nn.log_softmax(scores / temperature).mean(1)  # the crops of an image have one target
    picked = jnp.take_along_axis(log_p, jnp.where(known, assignments, 0)[:, None], 1)[:, 0]
    count = known.sum(dtype=scores.dtype)
    count = count if axis_name is None else jax.lax.pmean(count, axis_name)
    return -jnp.sum(picked, where=known) / jnp.where(count > 0, count, 1.0)


@dataclasses.dataclass(frozen=True)
class DeepCluster(Method):
    """DeepCluster-v2."""

    needs = frozenset({"index"})

    large: View = recipes.SWAV_LARGE  # two of them, whose embeddings are clustered
    small: View = recipes.SWAV_SMALL
    small_crops: OrZero = 6
    hidden: int = 2048  # of the projector
    out: Several = 128  # width of z
    prototypes: Several = 3000  # K, of each head
    heads: int = 3
    temperature: Positive = 0.1  # T
    iterations: int = 10  # of k-means

    def views(self) -> dict[str, View]:
        return multicrop.views(self.large, self.small, self.small_crops)

    def check(self, height: int, width: int, channels: int) -> None:
        multicrop.check(self.large, self.small, self.small_crops, (height, width, channels))

    def _head(self) -> MLP:
        return MLP((self.hidden,), self.out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        if self.prototypes > info.num_examples:
            raise UserError(
                f"config.method.prototypes is {self.prototypes}, more than the {info.num_examples} training images "
                "to be clustered: lower it."
            )
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["large1"])
        return params, {
            "stats": stats,
            "bank": jnp.zeros((memory_bank.size(info.num_examples), 2, self.out)),
            "assignments": jnp.full((self.heads, info.num_examples), UNASSIGNED, jnp.int32),
            "prototypes": jnp.zeros((self.heads, self.prototypes, self.out)),
        }

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        bank = state["bank"]
        if step == 0:
            rows = embed(self._embed_large)
            rows = jnp.pad(rows, ((0, len(bank) - len(rows)), (0, 0), (0, 0)))
            bank = jax.device_put(rows, bank.sharding)
        found = [
            kmeans(
                bank[:, head % 2],
                jax.random.fold_in(rng, head),
                count=info.num_examples,
                clusters=self.prototypes,
                iterations=self.iterations,
                spherical=True,
            )
            for head in range(self.heads)
        ]
        prototypes, assignments = (jnp.stack(x) for x in zip(*found, strict=True))
        return {**state, "bank": bank, "assignments": assignments, "prototypes": prototypes}

    def _embed_large(self, params: Any, state: Any, batch: Batch) -> jax.Array:  # -> [n, 2, D]
        crops = [batch["large1"], batch["large2"]]
        return multicrop.embed(self.backbone, self._head(), params, state["stats"], crops, train=True)[1]

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        crops = [batch[name] for name in self.views()]
        h, z, stats = multicrop.embed(self.backbone, self._head(), params, state["stats"], crops, train=train)
        prototypes = jax.lax.stop_gradient(state["prototypes"])
        targets = state["assignments"][:, batch["index"]]  # [heads, n]
        scores = [losses.similarity(z, c) for c in prototypes]  # heads of [n, V, K]
        terms = [
            clustering_loss(s, t, temperature=self.temperature, axis_name=dist.AXIS)
            for s, t in zip(scores, targets, strict=True)
        ]
        aux = Aux(
            metrics={
                "cluster_top1": Metric(losses.accuracy(scores[0][:, 0], targets[0])),
                "projection_std": Metric(losses.spread(z[:, 0], dist.AXIS), kind="std"),
            },
            features=jax.lax.stop_gradient(h[:, 0]),
        )
        bank = memory_bank.store(state["bank"], batch["index"], z[:, :2], dist.AXIS)
        return sum(terms) / self.heads, ({**state, "stats": stats, "bank": bank}, aux)

    def specs(self) -> Any:
        return {"stats": P(), "bank": P(dist.AXIS), "assignments": P(), "prototypes": P()}

    def chance(self, info: Info) -> float:
        """All clusters as likely."""
        return math.log(self.prototypes)
