"""Contrastive loss of pairs: images of a class come together, others move apart up to a margin.

Hadsell, Chopra, LeCun 2006 (Dimensionality reduction by learning an invariant mapping). D is the Euclidean distance of
two embeddings of a batch; all pairs of the batch are taken. Two reductions are in use, and neither is a rescaling of
the other:

- 'hadsell': half the squared hinges max(0, D - m+)^2 / 2 and max(0, m- - D)^2 / 2, the mean over all pairs. Most pairs
  of a batch are of two classes, so that they have nearly all the weight. The paper has no margin for pairs of one
  class, m- = 1, and embeddings as they are: `positive_margin=0`, `negative_margin=1`, `normalise=False`.
- 'nonzero': the hinges themselves, the mean over the pairs of one class that are not zero plus that over the pairs of
  two classes that are not zero (pytorch-metric-learning, whose margins are 0 and 1).

The margins that are the default here are those that Musgrave et al. 2020 (A metric learning reality check, arXiv
2003.08505) found by search, for 'nonzero' on the unit sphere: two margins, .3 apart.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.methods.contract import Info, Metric
from ssl_jax.methods.shared.embedding import Embedding, Rows, distances
from ssl_jax.runtime.errors import UserError

REDUCTIONS = ("hadsell", "nonzero")


def contrastive_loss(
    own: Rows,
    *,
    positive_margin: float,
    negative_margin: float,
    reduction: str,
    normalise: bool,
    axis_name: str | None = None,
) -> jax.Array:
    """The loss of the pairs of this replica's embeddings with those of all.

    Args:
      own: embeddings of this replica.
      positive_margin: m+, up to which images of one class may be apart.
      negative_margin: m-, beyond which images of two classes are far enough apart.
      reduction: one of `REDUCTIONS`.
      normalise: whether distances are of embeddings of unit length.
      axis_name: mapped axis over which the others are gathered; None for this replica's alone. The mean over replicas
        of the loss is that of the global batch.
    """
    own = own._replace(z=losses.l2_normalize(own.z)) if normalise else own
    others = own.gathered(axis_name)
    distance = distances(own.z, others.z)
    positive, negative = own.positives(others), own.negatives(others)
    apart = jnp.maximum(distance - positive_margin, 0.0)
    near = jnp.maximum(negative_margin - distance, 0.0)
    if reduction == "hadsell":
        found = jnp.square(jnp.where(positive, apart, near)) / 2
        return losses.mean_where(found, positive | negative, axis_name)
    loss = losses.mean_where(apart, positive & (apart > 0), axis_name)
    return loss + losses.mean_where(near, negative & (near > 0), axis_name)


@dataclasses.dataclass(frozen=True)
class ContrastivePair(Embedding):
    """Metric learning by the pairs of a batch of classes and images."""

    positive_margin: float = 0.25  # m+; 0: a single margin
    negative_margin: float = 0.55  # m-
    reduction: str = "nonzero"  # or 'hadsell'
    normalise: bool = True  # embeddings to unit length; Hadsell et al. do not

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.reduction not in REDUCTIONS:
            raise UserError(f"config.method.reduction is '{self.reduction}': use one of {', '.join(REDUCTIONS)}.")
        if not 0 <= self.positive_margin < self.negative_margin:
            raise UserError(
                f"config.method.positive_margin is {self.positive_margin} and negative_margin {self.negative_margin}: "
                "the first is at least 0 and below the second."
            )

    def compare_rows(self, own, axis_name=None):
        names = ("positive_margin", "negative_margin", "reduction", "normalise")
        options = {name: getattr(self, name) for name in names}
        return contrastive_loss(own, **options, axis_name=axis_name), self._means(own, axis_name)

    def _means(self, own: Rows, axis_name: str | None) -> dict[str, Metric]:
        """Mean distances within and between classes."""
        own = own._replace(z=jax.lax.stop_gradient(own.z))
        own = own._replace(z=losses.l2_normalize(own.z)) if self.normalise else own
        others = own.gathered(axis_name)
        distance = distances(own.z, others.z)
        within = losses.mean_where(distance, own.positives(others), axis_name)
        between = losses.mean_where(distance, own.negatives(others), axis_name)
        return {"within": Metric(within, kind="value"), "between": Metric(between, kind="value")}

    def chance(self, info: Info) -> float:
        """All images fall together: no pair of one class costs anything, and all others cost the margin."""
        if self.reduction == "nonzero":
            return self.negative_margin
        share = (info.batch_size - self.images_per_class) / (info.batch_size - 1)
        return share * self.negative_margin**2 / 2
