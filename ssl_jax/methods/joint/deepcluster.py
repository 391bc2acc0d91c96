"""DeepCluster-v2: clustering the embeddings of an epoch, and predicting the clusters in the next.

The baseline of SwAV (arXiv 2006.09882, sec. 4 and App. C); the first version (Caron et al. 2018, arXiv 1807.05520) is
not here. Follows the authors' code (facebookresearch/swav, main_deepclusterv2.py): SwAV's networks and crops; before
each epoch, ten iterations of spherical k-means a head on a bank of the embeddings of one of the large crops (head i
takes crop i mod 2), from rows drawn at random; a cluster that loses all its rows keeps its centroid. Centroids are the
head's prototypes and never move otherwise. The bank is written by forward passes in training mode, before the first
epoch by extra ones. There it has the images of the last epoch only, and one that its last partial batch dropped is
unassigned for an epoch; here every image keeps the row it had.
"""

import dataclasses
import functools
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
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import initialise
from ssl_jax.runtime.errors import UserError

UNASSIGNED = -100
BLOCK = memory_bank.BLOCK


@functools.partial(jax.jit, static_argnames=("count", "clusters", "iterations"))
def spherical_kmeans(
    x: jax.Array, rng: jax.Array, *, count: int, clusters: int, iterations: int = 10
) -> tuple[jax.Array, jax.Array]:
    """Clusters rows by cosine, as `cluster_memory` of the authors does.

    Rows are taken `BLOCK` at a time, a part from each device that they lie on; sums are products with one-hot
    matrices, which are added in a fixed order on every device, as a scatter would not be on a GPU.

    Args:
      x: rows of length one [M, D], M a multiple of `BLOCK`.
      rng: a key, for the rows that the centroids start from.
      count: the first rows, which are clustered; the rest is padding.
      clusters: K, at most `count`.
      iterations: of moving every centroid to the direction of its rows' sum.

    Returns:
      centroids of length one [K, D], and the nearest centroid's number for each row, int32 [count].
    """
    real = jnp.arange(len(x)) < count
    x_blocks, real_blocks = (a.reshape(BLOCK, -1, *a.shape[1:]).swapaxes(0, 1) for a in (x, real))

    def nearest(centroids, block):  # [BLOCK, D] -> [BLOCK]
        return jnp.argmax(losses.similarity(block, centroids), -1).astype(jnp.int32)

    def move(_, centroids):
        def add(totals, block):
            rows, real = block
            members = jax.nn.one_hot(nearest(centroids, rows), clusters, axis=0, dtype=x.dtype) * real  # [K, BLOCK]
            counted = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], 1)  # its sum is the number of rows
            return totals + jnp.matmul(members, counted, precision="highest"), None

        zeros = jnp.zeros((clusters, x.shape[1] + 1), x.dtype)
        totals, _ = jax.lax.scan(add, zeros, (x_blocks, real_blocks))
        return jnp.where(totals[:, -1:] > 0, losses.l2_normalize(totals[:, :-1]), centroids)

    first = x[jax.random.permutation(rng, count)[:clusters]]
    centroids = jax.lax.fori_loop(0, iterations, move, first)
    assignments = jax.lax.map(lambda block: nearest(centroids, block), x_blocks)
    return centroids, assignments.swapaxes(0, 1).reshape(-1)[:count]


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
    out: int = 128  # width of z
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
            spherical_kmeans(
                bank[:, head % 2],
                jax.random.fold_in(rng, head),
                count=info.num_examples,
                clusters=self.prototypes,
                iterations=self.iterations,
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
