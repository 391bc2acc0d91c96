"""JULE: joint unsupervised learning of clusters and features. Clusters are merged, and features learn to tell them.

Yang, Parikh, Batra 2016 (arXiv 1604.03628). Follows the authors' code (jwyang/JULE.torch, train.lua). To begin with,
images are clusters of those that lead to each other as nearest neighbours, by their pixels. Every `period` epochs the
closest clusters are merged, by the features of all images, until `clusters` are left; between, a weighted triplet loss
brings images of a cluster together. The true number of clusters is given to the method: it is the number of classes of
the training images, unless `clusters` says another. No label is read. Decisions:

- a pair of images is compared with all images of other clusters in the batch, of which the authors draw 20: the mean
  is what their draw has on average; each of a pair is the anchor once;
- the gradient is that of the loss; on a GPU their criterion overwrites the anchor before it computes the others';
- affinities after a merger are exact (eq. 3), as their code has them with `use_fast 0`;
- a cluster is compared with all others for its margin; theirs sees those of smaller numbers only;
- features to be clustered have running statistics, where theirs have those of batches;
- once `clusters` are left they stay what they are, and training goes on until the run ends.

Clustering is on the host and takes all pairs of images: it is meant for some ten thousand small images.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Embed, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import OrZero, Positive, Several, Share
from ssl_jax.methods.shared import agglomeration
from ssl_jax.methods.shared.embedding import Rows, distances
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

MOST = 100_000  # images
WHOLE = View(crop="centre", order=("crop",))  # images as they are


def weighted_triplet_loss(
    own: Rows, *, margin: float, weight: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """max(0, weight |a - p|^2 - |a - n|^2 + margin), the mean over negatives n and then over pairs (a, p), eq. 9.

    Args:
      own: embeddings of this replica with their clusters.
      margin: m.
      weight: gamma, of positive pairs.
      axis_name: mapped axis over which positives and negatives are gathered; None for this replica's alone.

    Returns:
      the loss of this replica's anchors, 0 without a pair; the mean over replicas is that of the global batch. And the
      number of pairs for each anchor.
    """
    others = own.gathered(axis_name)
    distance = distances(own.z, others.z, squared=True)
    positive, negative = own.positives(others), own.negatives(others)
    hinge = jnp.maximum(weight * distance[:, :, None] - distance[:, None, :] + margin, 0.0)
    each = jnp.sum(hinge, -1, where=negative[:, None, :]) / jnp.maximum(negative.sum(1), 1)[:, None]
    counted = positive & negative.any(1)[:, None]
    return losses.mean_where(each, counted, axis_name), jnp.mean(counted.sum(1), dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class JULE(Method):
    """Joint unsupervised learning."""

    needs = frozenset({"index"})
    compares = True

    view: View = WHOLE
    clusters: OrZero = 0  # that are left, which it is told; 0: as many as the training images have classes
    out: int = 160  # width of the embedding, models_def
    period: int = 20  # epochs from one merging to the next, epoch_pp
    unroll: Share = 0.9  # share of the clusters that is merged away at a time, eta; .2 for faces
    neighbours: int = 20  # of an image, K_s
    local: Several = 5  # clusters that a merger is compared with, K_c
    margin: Positive = 0.2
    weight: Positive = 1.0  # of positive pairs, gamma

    def _head(self) -> MLP:
        return MLP((), self.out, dtype=self.backbone.dtype)

    def _target(self, info: Info) -> int:
        return self.clusters or info.num_classes

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        if self._target(info) < 2:
            raise UserError(
                "The method jule is told the number of clusters, and the training images have no classes that it could "
                "be: set config.method.clusters, to at least 2."
            )
        if info.num_examples > MOST:
            raise UserError(
                f"The method jule compares all {info.num_examples} training images with each other, on the host; it is "
                f"meant for {MOST} at most: take fewer with config.data.per_class, or the method deepcluster_v1."
            )
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["view"])
        alone = jnp.arange(info.num_examples, dtype=jnp.int32)
        return params, {"stats": stats, "cluster": alone, "count": jnp.asarray(info.num_examples, jnp.int32)}

    def on_epoch(self, params: Any, state: Any, *, rng: jax.Array, step: int, info: Info, embed: Embed) -> Any:
        epoch, target, views = step // info.steps_per_epoch, self._target(info), {"view": self.eval_view(1.0)}
        if epoch % self.period or (epoch and int(state["count"]) <= target):
            return state
        if epoch == 0:
            clusters = agglomeration.first_clusters(np.asarray(embed(self._pixels, views)))
        else:
            clusters = agglomeration.merged(
                np.asarray(embed(self._features, views)),
                np.asarray(state["cluster"]),
                count=self.neighbours,
                local=self.local,
                share=self.unroll,
                target=target,
            )
        count = jnp.asarray(clusters.max() + 1, jnp.int32)
        return {**state, "cluster": jnp.asarray(clusters), "count": count}

    def _pixels(self, params: Any, state: Any, batch: Batch) -> jax.Array:  # -> [n, H W C], of length one
        shown = pixels(self.view, batch["view"])
        return losses.l2_normalize(shown.reshape(len(shown), -1))

    def _features(self, params: Any, state: Any, batch: Batch) -> jax.Array:  # -> [n, D], of length one
        return self._embedded(params, state["stats"], batch["view"], False)[1]

    def _embedded(self, params, stats, images, train):
        h, stats = apply(self.backbone, "backbone", params, stats, images, train=train)
        z, stats = apply(self._head(), "projector", params, stats, h, train=train)
        return h, losses.l2_normalize(z), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, z, stats = self._embedded(params, state["stats"], batch["view"], train)
        own = Rows(z, state["cluster"][batch["index"]], batch["position"])
        loss, pairs = weighted_triplet_loss(own, margin=self.margin, weight=self.weight, axis_name=dist.AXIS)
        metrics = {
            "clusters": Metric(state["count"].astype(jnp.float32), kind="value"),
            "pairs_of_an_image": Metric(pairs, kind="value"),
            "embedding_std": Metric(losses.spread(z, dist.AXIS), kind="std"),
        }
        return loss, ({**state, "stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images, and the one of them whose embedding is nearest."""
        x, own = batch["view"][:8], np.asarray(state["cluster"])[np.asarray(batch["index"])[:8]]
        z = np.asarray(self._embedded(params, state["stats"], x, False)[1])
        nearest = np.argmax(z @ z.T - 3 * np.eye(len(z)), 1)
        shown = np.clip(pixels(self.view, x), 0, 1)
        captions = tuple((f"cluster {own[i]}", f"cluster {own[j]}") for i, j in enumerate(nearest))
        title, columns = "Images of a cluster are to have features alike.", ("image", "the nearest of the others")
        return [Picture(title, columns, np.stack([shown, shown[nearest]], 1), captions)]

    def chance(self, info: Info) -> float:
        """All images fall together."""
        del info
        return self.margin
