"""Supervised contrastive learning: all images of a class, and all views of an image, are positives of one another.

Khosla et al. 2020 (arXiv 2004.11362). SimCLR's loss with more positives, whose log-probabilities are averaged outside
the logarithm (L_out, eq. 2). Follows the authors' code (HobbitLong/SupContrast, losses.py) but for anchors without a
positive, which are left out; there they are NaN or zero, by the version. Without classes in common it is SimCLR's loss.
The classifier of the paper's second stage is this package's linear evaluation.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Sampler, Shuffled
from ssl_jax.methods.contract import Batch, Info
from ssl_jax.methods.ranges import Positive
from ssl_jax.methods.shared.embedding import Embedding, Rows
from ssl_jax.models.heads import MLP
from ssl_jax.runtime.errors import UserError


def supcon_loss(own: Rows, *, temperature: float, axis_name: str | None = None) -> jax.Array:
    """The loss of this replica's anchors: minus the mean log-probability of their positives.

    Args:
      own: embeddings of this replica; normalised inside.
      temperature: divides the cosines.
      axis_name: mapped axis over which others are gathered; None for this replica's alone. The mean over replicas of
        the loss is that of the global batch.
    """
    own = own._replace(z=losses.l2_normalize(own.z))
    others = own.gathered(axis_name)
    positive = own.positives(others)
    itself = own.rows[:, None] == others.rows
    logits = jnp.where(itself, -jnp.inf, losses.similarity(own.z, others.z) / temperature)
    found = jnp.where(positive, jax.nn.log_softmax(logits, -1), 0.0)
    count = positive.sum(1)
    return losses.mean_where(-found.sum(1) / jnp.maximum(count, 1), count > 0, axis_name)


@dataclasses.dataclass(frozen=True)
class SupCon(Embedding):
    """Contrastive learning with labels."""

    compares = True

    view: View = recipes.SIMCLR  # sec. 4
    copies: int = 2  # views of each image, sec. 3.1
    images_per_class: int = 0  # of a class in a batch; 0: images as they come, sec. 3.1
    hidden: int = 2048  # of the projector, sec. 3.1
    temperature: Positive = 0.1  # sec. 4

    def views(self) -> dict[str, View]:
        return {f"view{i + 1}": self.view for i in range(self.copies)}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.copies < 1 or (self.copies < 2 and self.images_per_class < 2):
            raise UserError(
                f"config.method.copies is {self.copies} and images_per_class {self.images_per_class}: set either to "
                "at least 2 (and copies to at least 1), so that every image has a positive."
            )

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if self.images_per_class:
            return super().sampler(data, info)
        return Shuffled(len(data.images), info.batch_size)

    def _head(self) -> nn.Module:
        return MLP((self.hidden,), self.out, hidden_bias=True, hidden_norm=False, dtype=self.backbone.dtype)

    def _images(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All views, those of an image together; an image without a label is a class of its own."""
        x = jnp.stack([batch[name] for name in self.views()], 1)
        rows = batch["position"][:, None] * self.copies + jnp.arange(self.copies)
        labels = jnp.where(batch["label"] < 0, -1 - batch["position"], batch["label"])
        return x.reshape(-1, *x.shape[2:]), jnp.repeat(labels, self.copies), rows.reshape(-1)

    def compare_rows(self, own, axis_name=None):
        return supcon_loss(own, temperature=self.temperature, axis_name=axis_name), {}

    def chance(self, info: Info) -> float:
        """Everything is as similar."""
        return math.log(info.batch_size * self.copies - 1)

    def best(self, info: Info) -> float:
        """Classes are points: the mean number of an image's positives, which share the answer."""
        together = self.images_per_class or max(info.batch_size / max(info.num_classes, 1), 1)
        return math.log(max(self.copies * together - 1, 1))
