"""N-pair loss: each image's partner is told from the partners of all other classes of the batch.

Sohn 2016 (Improved deep metric learning with multi-class N-pair loss objective, NIPS). A batch has N classes with two
images each, an anchor and a positive; the loss is a softmax cross-entropy over the inner products of an anchor with all
positives (eq. 7), plus a penalty of the embeddings' lengths, which are not normalised (sec. 3.2.2). Follows
tensorflow-addons: the penalty is a quarter of `penalty` times the sum of the two mean squared lengths, and classes that
come twice in a batch share the answer. With `normalise` embeddings have unit length, as pytorch-metric-learning has it
by default: without a temperature the loss then cannot fall below ln(1 + (N - 1) exp(-N / (N - 1))).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.methods.contract import Info, Metric
from ssl_jax.methods.shared.embedding import Embedding, Rows
from ssl_jax.runtime.errors import UserError


def n_pair_loss(
    own: Rows, *, penalty: float, normalise: bool = False, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """The loss of this replica's anchors, and the share of them whose highest product is with their own class.

    Args:
      own: embeddings of this replica; those in even rows of the global batch are anchors, those in odd rows positives.
      penalty: lambda, of the squared lengths.
      normalise: take embeddings to unit length.
      axis_name: mapped axis over which positives are gathered; None for this replica's alone. The mean over replicas of
        the loss is that of the global batch.
    """
    own = own._replace(z=losses.l2_normalize(own.z)) if normalise else own
    others = own.gathered(axis_name)
    anchor, candidate = own.rows % 2 == 0, others.rows % 2 == 1
    same = (own.labels[:, None] == others.labels) & candidate
    target = same / jnp.maximum(same.sum(1, keepdims=True), 1)
    logits = jnp.where(candidate, losses.similarity(own.z, others.z), -jnp.inf)
    rest = jnp.where(same, jax.nn.log_softmax(logits, -1), 0.0)
    lengths = jnp.sum(jnp.square(own.z), -1)
    loss = losses.mean_where(-jnp.sum(target * rest, -1), anchor, axis_name)
    for rows in (anchor, ~anchor):
        loss += 0.25 * penalty * losses.mean_where(lengths, rows, axis_name)
    right = jnp.take_along_axis(same, jnp.argmax(logits, -1)[:, None], -1)[:, 0]
    return loss, losses.mean_where(right.astype(jnp.float32), anchor, axis_name)


@dataclasses.dataclass(frozen=True)
class NPairs(Embedding):
    """Metric learning by one pair of each of many classes."""

    images_per_class: int = 2  # an anchor and a positive; 4: two such pairs
    penalty: float = 0.002  # lambda of the embeddings' squared lengths, tensorflow-addons
    normalise: bool = False  # embeddings to unit length, which the paper advises against

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.images_per_class % 2:
            raise UserError(f"config.method.images_per_class is {self.images_per_class}: pairs want an even number.")

    def compare_rows(self, own, axis_name=None):
        loss, top1 = n_pair_loss(own, penalty=self.penalty, normalise=self.normalise, axis_name=axis_name)
        return loss, {"pair_top1": Metric(top1)}

    def chance(self, info: Info) -> float:
        """Every positive is as likely."""
        return math.log(info.batch_size // 2)

    def best(self, info: Info) -> float:
        """Inner products without bound; of unit vectors, classes at the corners of a simplex."""
        shared = math.log(self.images_per_class / 2)  # pairs of a class share the answer
        if not self.normalise:
            return shared
        others = info.batch_size // self.images_per_class - 1
        return shared + math.log1p(others * math.exp(-(others + 1) / others)) + 0.5 * self.penalty
