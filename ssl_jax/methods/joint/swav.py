"""SwAV: swapping assignments between views, with multi-crop.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020 (arXiv 2006.09882). Where paper and code differ this follows the
authors' code (facebookresearch/swav, main_swav.py): three Sinkhorn iterations on sums over the global batch; crops of
one resolution go through the backbone as one batch, those of all through the head; prototypes have length one
whenever they are used, and do not move in their first epoch; the queue holds embeddings, is filled from a given epoch
on, read only once it is full, and pushed after it was read. The authors normalise the prototypes before each forward
pass and this does after each update, which is the same. Sinkhorn runs on logarithms, so that no epsilon overflows.
The bias of the head's hidden layer is left out: the BatchNorm behind it cancels it.
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
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import OrZero, Positive, Several
from ssl_jax.methods.shared import multicrop
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import initialise
from ssl_jax.runtime.errors import UserError


def sinkhorn(
    scores: jax.Array,
    *,
    epsilon: float | jax.Array = 0.05,
    iterations: int = 3,
    counted: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Soft assignments that share the batch out evenly over the prototypes (eq. 3 to 5), without gradient.

    Args:
      scores: of this replica's rows and the prototypes, [n, K].
      epsilon: smoothness; the smaller, the harder the assignment.
      iterations: of dividing prototypes, then rows, by their sums.
      counted: bool [n], rows that have a share in the prototypes' sums; default all.
      axis_name: mapped axis over which the prototypes' sums go; None for this replica's rows alone.

    Returns:
      codes Q [n, K], float32 or wider; every row sums to one.
    """
    s = jax.lax.stop_gradient(scores)
    s = s.astype(jnp.promote_types(s.dtype, jnp.float32)) / epsilon
    absent = 0.0 if counted is None else jnp.where(counted, 0.0, -jnp.inf)[:, None]
    row = jnp.zeros((len(s), 1), s.dtype)  # log of what each row is multiplied by
    for _ in range(iterations):
        shared = s + row + absent
        top = shared.max(0)
        top = top if axis_name is None else jax.lax.pmax(top, axis_name)
        mass = jnp.exp(shared - top).sum(0)
        mass = mass if axis_name is None else jax.lax.psum(mass, axis_name)
        balanced = s - (jnp.log(mass) + top)
        row = -jax.nn.logsumexp(balanced, 1, keepdims=True)
    return jnp.exp(balanced + row)


def swapped_prediction(scores: jax.Array, codes: jax.Array, *, temperature: float) -> jax.Array:
    """Cross-entropy of each crop's code and every other crop's prediction (eq. 2 and 6), the mean over rows and pairs.

    Args:
      scores: cosines of V crops and the prototypes, [n, V, K].
      codes: of the first A crops, [n, A, K]; no gradient flows into them.
      temperature: T, divides the scores.
    """
    codes, log_p = jax.lax.stop_gradient(codes), jax.nn.log_softmax(scores / temperature)
    pairs = -jnp.einsum("nak,nvk->av", codes, log_p, precision="highest") / len(scores)
    a, v = pairs.shape
    return jnp.sum(pairs, where=~jnp.eye(a, v, dtype=bool)) / (a * (v - 1))


@dataclasses.dataclass(frozen=True)
class SwAV(Method):
    """Swapped prediction of online cluster assignments."""

    compares = True

    large: View = recipes.SWAV_LARGE  # two of them, which are assigned; App. A
    small: View = recipes.SWAV_SMALL
    small_crops: OrZero = 6  # V - 2, sec. 3.3
    hidden: int = 2048  # of the projector
    out: Several = 128  # width of z
    prototypes: Several = 3000  # K
    temperature: Positive = 0.1  # T
    epsilon: float = 0.05  # of Sinkhorn
    iterations: int = 3  # of Sinkhorn
    concat_views: bool = True  # crops of one size in one forward pass; else BatchNorm sees each alone (lightly)
    queue_length: int = 0  # embeddings a crop, of small batches: 3840 at N = 256; rounded down to whole batches
    queue_start: OrZero = 15  # epoch from which the queue is filled

    def views(self) -> dict[str, View]:
        return multicrop.views(self.large, self.small, self.small_crops)

    def check(self, height: int, width: int, channels: int) -> None:
        multicrop.check(self.large, self.small, self.small_crops, (height, width, channels))

    def _head(self) -> MLP:
        return MLP((self.hidden,), self.out, bn_groups=self.backbone.bn_groups, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["large1"])
        c = jax.random.uniform(jax.random.fold_in(rng, 2), (self.prototypes, self.out), minval=-1.0)
        params["prototypes"], state = losses.l2_normalize(c), {"stats": stats}
        if self.queue_length:
            batches = self.queue_length // info.batch_size
            if not batches:
                raise UserError(
                    f"config.method.queue_length is {self.queue_length}, less than a batch of {info.batch_size}: "
                    "raise it, or set it to 0."
                )
            # By batch, newest first: what a replica pushes stays with it.
            state["queue"] = jnp.zeros((2, batches, info.batch_size, self.out))
        return params, state

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        crops = [batch[name] for name in self.views()]
        parts = self.backbone, self._head(), params, state["stats"], crops
        h, z, stats = multicrop.embed(*parts, train=train, concat=self.concat_views)
        c = params["prototypes"]
        scores = losses.similarity(z, c)  # [n, V, K]
        state = {**state, "stats": stats}
        if self.queue_length:
            filled = step - self.queue_start * info.steps_per_epoch  # updates that have pushed
            queue = jax.lax.stop_gradient(state["queue"])
            old = queue.reshape(2, -1, self.out)  # this replica's rows
            q = self._codes(scores, losses.similarity(old, c), filled >= queue.shape[1])
            new = jnp.concatenate([jax.lax.stop_gradient(z[:, :2]).swapaxes(0, 1), old], 1)[:, : old.shape[1]]
            state["queue"] = jnp.where(filled >= 0, new.reshape(queue.shape), queue)
        else:
            q = self._codes(scores, jnp.zeros((2, 0, self.prototypes)), True)
        used = dist.mean(jax.nn.softmax(scores[:, 0] / self.temperature).mean(0))
        aux = Aux(
            metrics={
                "code_overlap": Metric(jnp.minimum(q[:, 0], q[:, 1]).sum(-1).mean()),
                "prototypes_used": Metric(jnp.exp(jax.scipy.special.entr(used).sum()), kind="value"),
                "projection_std": Metric(losses.spread(z[:, 0], dist.AXIS), kind="std"),
            },
            features=jax.lax.stop_gradient(h[:, 0]),
        )
        return swapped_prediction(scores, q, temperature=self.temperature), (state, aux)

    def _codes(self, scores: jax.Array, queued: jax.Array, full: jax.Array | bool) -> jax.Array:
        """Codes [n, 2, K] of the large crops, from scores [n, V, K] and, once it is full, the queue's [2, m, K]."""
        n, m = len(scores), queued.shape[1]
        counted = (jnp.arange(m + n) >= m) | full

        def codes(queued, scores):
            s = jnp.concatenate([queued, scores])  # queue first, batch last
            q = sinkhorn(s, epsilon=self.epsilon, iterations=self.iterations, counted=counted, axis_name=dist.AXIS)
            return q[m:]

        return jnp.stack([codes(queued[a], scores[:, a]) for a in range(2)], 1)

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        return {**params, "prototypes": losses.l2_normalize(params["prototypes"])}, state

    def groups(self, params: Any) -> Any:
        return {**super().groups(params), "prototypes": "prototypes"}

    def specs(self) -> Any:
        return {"stats": P(), "queue": P(None, None, dist.AXIS)} if self.queue_length else P()

    def chance(self, info: Info) -> float:
        """All prototypes as likely."""
        return math.log(self.prototypes)
