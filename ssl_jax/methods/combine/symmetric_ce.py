"""Symmetric cross-entropy: supervised learning of labels of which some are wrong.

Wang et al. 2019 (arXiv 1908.06112). The cross-entropy of the labels q and the answers p, times alpha, plus the reverse
one, -sum_k p_k log q_k, times beta, where the log of a zero of q is -`ceiling`: A = -4 in the paper (sec. 3.2), and
-9.21 in the authors' code (YisenWang/symmetric_cross_entropy_for_noisy_labels, loss.py), which clips q at 1e-4. The
reverse one is bounded: a wrong label that the network is sure about pulls no harder than another. With alpha 1 and
beta 0 it is `supervised`. Labels are made wrong for a trial by `config.data.label_noise`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ssl_jax import dist
from ssl_jax.methods.combine.supervised import Supervised, known_cross_entropy
from ssl_jax.methods.contract import Aux, Info, Metric
from ssl_jax.methods.ranges import Positive
from ssl_jax.models.parts import apply


def reverse_cross_entropy(logits: jax.Array, labels: jax.Array, ceiling: float) -> jax.Array:
    """Ceiling (1 - p of the label), over the labelled rows of the global batch as `known_cross_entropy` counts them.

    Args:
      logits: [n, K] of this replica.
      labels: [n] integers, -1 where unknown.
      ceiling: what -log is of zero.
    """
    known = labels >= 0
    count = jnp.maximum(dist.mean(known.sum().astype(jnp.float32)), 1e-6)
    p = jnp.take_along_axis(jax.nn.softmax(logits), jnp.maximum(labels, 0)[:, None], 1)[:, 0]
    return jnp.sum(ceiling * (1 - p), where=known) / count


@dataclasses.dataclass(frozen=True)
class SymmetricCE(Supervised):
    """A classifier of labels of which some are wrong."""

    alpha: float = 0.1  # of the cross-entropy; CIFAR-10, sec. 4.2
    beta: float = 1.0  # of the reverse one
    ceiling: Positive = 4.0  # of -log q, where q is zero: -A, sec. 3.2; the authors' code has 9.21

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, stats = apply(self.backbone, "backbone", params, state["stats"], batch["view"], train=train)
        logits, stats = apply(self._head(info), "classifier", params, stats, h, train=train)
        logits, labels = self._masked(logits), self._known(batch["label"])
        loss, top1 = known_cross_entropy(logits, labels)
        reverse = reverse_cross_entropy(logits, labels, self.ceiling)
        metrics = {"supervised_top1": Metric(top1), "reverse_loss": Metric(reverse, kind="value")}
        return self.alpha * loss + self.beta * reverse, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h)))

    def chance(self, info: Info) -> float:
        """Every class is as likely."""
        count = len(self.classes) or info.num_classes
        return self.alpha * math.log(count) + self.beta * self.ceiling * (1 - 1 / count)
