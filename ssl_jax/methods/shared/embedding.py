"""What the methods of metric learning have in common: an embedding, batches of classes, distances to all replicas."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import PerClass, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


class Rows(NamedTuple):
    """Embeddings with what tells pairs from strangers."""

    z: jax.Array  # [n, D]
    labels: jax.Array  # class [n] of each
    rows: jax.Array  # number [n] of each in the global batch: an image is no positive of its own

    def gathered(self, axis_name: str | None) -> "Rows":
        """Those of all replicas, with the gradient: the mean over the replicas of a loss is that of the batch."""
        if axis_name is None:
            return self
        return Rows(*(jax.lax.all_gather(x, axis_name, tiled=True) for x in self))

    def positives(self, others: "Rows") -> jax.Array:
        """Which of some others [n, N] are other images of the same class."""
        return (self.labels[:, None] == others.labels) & (self.rows[:, None] != others.rows)

    def negatives(self, others: "Rows") -> jax.Array:
        """Which of some others [n, N] are images of other classes."""
        return self.labels[:, None] != others.labels


def distances(z: jax.Array, others: jax.Array, *, squared: bool = False) -> jax.Array:
    """Euclidean distances [n, N] of rows [n, D] and [N, D], whose slope is finite at zero too."""
    lengths = jnp.sum(z * z, -1)[:, None] + jnp.sum(others * others, -1)
    found = jnp.maximum(lengths - 2 * losses.similarity(z, others), 0.0 if squared else 1e-12)
    return found if squared else jnp.sqrt(found)


@dataclasses.dataclass(frozen=True)
class Embedding(Method):
    """An embedding that is learned from classes; what is left is to compare embeddings."""

    needs = frozenset({"labels"})

    view: View = recipes.ROTNET  # crop and flip
    out: Several = 128  # width of the embedding, FaceNet sec. 4
    images_per_class: int = 4  # K of a batch, pytorch-metric-learning's reality check

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if self.images_per_class < 2 or info.batch_size % self.images_per_class:
            raise UserError(
                f"config.batch_size is {info.batch_size}, which {self.images_per_class} images per class "
                "(config.method.images_per_class, at least 2) do not divide: make it a multiple."
            )
        return PerClass(data.labels, info.batch_size // self.images_per_class, self.images_per_class)

    def _head(self) -> nn.Module:
        return MLP((), self.out, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        images = batch[next(iter(self.views()))]
        params, stats = initialise({"backbone": self.backbone, "embedding": self._head()}, rng, images)
        return params, {"stats": stats}

    def _images(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Images [n, H, W, C] of this replica, their classes [n], and their numbers [n] in the global batch."""
        return batch["view"], batch["label"], batch["position"]

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step, info
        images, labels, rows = self._images(batch)
        h, stats = apply(self.backbone, "backbone", params, state["stats"], images, train=train)
        z, stats = apply(self._head(), "embedding", params, stats, h, train=train)
        loss, metrics = self.compare_rows(Rows(z, labels, rows), dist.AXIS)
        std = Metric(losses.spread(z, dist.AXIS), kind="std")
        aux = Aux({**metrics, "embedding_std": std}, jax.lax.stop_gradient(h), jnp.maximum(labels, -1))
        return loss, ({"stats": stats}, aux)

    def compare_rows(self, own: Rows, axis_name: str | None = None) -> tuple[jax.Array, Mapping[str, Metric]]:
        """The loss of this replica's embeddings among those of all, and metrics.

        Args:
          own: of this replica, as the network gives them.
          axis_name: mapped axis over which others are gathered; None for this replica's alone. The mean over replicas
            of the loss is that of the global batch.
        """
        raise NotImplementedError
