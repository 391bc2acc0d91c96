"""NNCLR: contrastive learning whose positives are nearest neighbours in a queue.

Dwibedi, Aytar, Tompson, Sermanet, Zisserman 2021 (arXiv 2104.14548). There is no code by the authors; where the paper
leaves things open this follows solo-learn (methods/nnclr.py, losses/nnclr.py): two cross-entropies whose rows are
neighbours and whose columns are the predictions of the global batch, gathered with their gradient, as in the paper's
pseudocode (VISSL averages in the transposed ones too); linear layers before BatchNorm have no bias, the predictor's
last one has; the queue takes the first view's projections, after its use. `nt_xent` is lightly's benchmark.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.joint.mocov1 import enqueue, new_queue
from ssl_jax.methods.joint.simclr import nt_xent
from ssl_jax.methods.ranges import Positive, Several
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise


def nearest_neighbour(z: jax.Array, queue: jax.Array) -> jax.Array:
    """NN(z, Q): for each row the most similar one of the queue (eq. 2), without gradient.

    Args:
      z: projections [n, D].
      queue: normalised rows [K, D].

    Returns:
      rows of the queue [n, D].
    """
    z, queue = jax.lax.stop_gradient((z, queue))
    return queue[jnp.argmax(losses.similarity(losses.l2_normalize(z), queue), -1)]


def neighbour_contrast(
    neighbours: jax.Array, p: jax.Array, *, temperature: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each neighbour's own prediction among those of the batch (eq. 3), the mean over rows.

    Args:
      neighbours: of the projections of one view [n, D]; normalised inside, no gradient flows into them.
      p: predictions of the other view [n, D]; normalised inside.
      temperature: tau, divides the cosine similarities.
      axis_name: mapped axis over which predictions are gathered; None for this replica's alone.

    Returns:
      loss, and the share of neighbours whose own prediction is the nearest.
    """
    neighbours, p = losses.l2_normalize(jax.lax.stop_gradient(neighbours)), losses.l2_normalize(p)
    own = jnp.arange(len(p))
    return losses.in_batch_softmax(neighbours, p, own, temperature=temperature, axis_name=axis_name)


@dataclasses.dataclass(frozen=True)
class NNCLR(Method):
    """Contrastive learning with nearest neighbours as positives."""

    compares = True

    view1: View = recipes.SIMCLR  # sec. 4.1
    view2: View = recipes.SIMCLR
    temperature: Positive = 0.1  # tau, sec. 4.1
    queue_size: int = 98304  # |Q|, sec. 4.1
    hidden: tuple[int, ...] = (2048, 2048)  # widths of the projector's hidden layers, sec. 4.1
    out: Several = 256  # width of z and p
    predictor_hidden: int = 4096
    nt_xent: bool = False  # NT-Xent between neighbours and predictions, with the negatives of both (lightly)

    def _projector(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP(self.hidden, self.out, False, False, "affine", bn_groups, dtype=dtype)

    def _predictor(self) -> MLP:
        bn_groups, dtype = self.backbone.bn_groups, self.backbone.dtype
        return MLP((self.predictor_hidden,), self.out, bn_groups=bn_groups, dtype=dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        queue_rng, rng = jax.random.split(rng)
        queue = new_queue(queue_rng, self.queue_size, self.out, info.batch_size)
        parts = {"backbone": self.backbone, "projector": self._projector(), "predictor": self._predictor()}
        params, stats = initialise(parts, rng, batch["view1"])
        return params, {"stats": stats, "queue": queue}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        stats, queue = state["stats"], state["queue"]
        h, z, p, nn = {}, {}, {}, {}
        for v in ("view1", "view2"):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            z[v], stats = apply(self._projector(), "projector", params, stats, h[v], train=train)
            p[v], stats = apply(self._predictor(), "predictor", params, stats, z[v], train=train)
            nn[v] = nearest_neighbour(z[v], queue["rows"])
        contrast = nt_xent if self.nt_xent else neighbour_contrast
        loss1, right1 = contrast(nn["view1"], p["view2"], temperature=self.temperature, axis_name=dist.AXIS)
        loss2, right2 = contrast(nn["view2"], p["view1"], temperature=self.temperature, axis_name=dist.AXIS)
        z1 = losses.l2_normalize(jax.lax.stop_gradient(z["view1"]))
        metrics = {
            "contrastive_accuracy": Metric((right1 + right2) / 2),
            "neighbour_cosine": jnp.mean(jnp.sum(z1 * nn["view1"], -1)),
            "projection_std": Metric(losses.spread(z1, dist.AXIS), kind="std"),
        }
        state = {"stats": stats, "queue": enqueue(queue, dist.gather(z1))}
        return (loss1 + loss2) / 2, (state, Aux(metrics, jax.lax.stop_gradient(h["view1"])))

    def chance(self, info: Info) -> float:
        """All predictions equal; NT-Xent has the other neighbours as well."""
        candidates = 2 * info.batch_size - 1 if self.nt_xent else info.batch_size
        return math.log(candidates)
