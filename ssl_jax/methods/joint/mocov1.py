"""MoCo: contrastive learning against a queue of keys from a momentum (EMA) encoder.

He, Fan, Wu, Xie, Girshick 2020 (arXiv 1911.05722). Follows the authors' code (facebookresearch/moco,
moco/builder.py): the key network starts as a copy of the query network and moves before it encodes, from the
parameters that come in, so that after the first update it is still the copy; its BatchNorm statistics come from its
own forward passes, in training mode; only the queue has negatives, the other keys of the batch are none; keys enter
the queue after its use. With micro-batches (config.accumulate) each one moves the key network and enqueues.

BatchNorm lets the key and its query tell each other by the statistics of their group (sec. 3.3). The authors normalise
within each GPU and shuffle the keys' images over the GPUs; here the groups are config.model.bn_groups and the
permutation is one of the global batch, so that one device cheats no more than eight. With one group there is nothing
to shuffle. `symmetric` is the authors' CIFAR demo.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Positive, Several, Share
from ssl_jax.models.heads import torch_uniform
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def info_nce(q: jax.Array, k: jax.Array, queue: jax.Array, *, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each query's key among the queue (eq. 1), the mean over rows.

    Args:
      q: queries [n, D]; normalised inside, as are the others.
      k: their keys [n, D]; no gradient flows into them.
      queue: negatives [K, D], the same for all queries; no gradient flows into them.
      temperature: divides the cosine similarities.

    Returns:
      loss, and the share of queries whose key is nearer than everything in the queue.
    """
    q, k, queue = losses.l2_normalize(q), *(losses.l2_normalize(jax.lax.stop_gradient(x)) for x in (k, queue))
    positive, negative = jnp.sum(q * k, -1, keepdims=True), losses.similarity(q, queue)
    logits = jnp.concatenate([positive, negative], 1) / temperature  # [n, 1 + K]
    loss = losses.cross_entropy(logits, jnp.zeros(len(q), jnp.int32))
    # Nearer, not as near: a collapsed network must not look like one that is always right.
    return loss, jnp.mean(positive[:, 0] > negative.max(-1), dtype=jnp.float32)


def new_queue(rng: jax.Array, size: int, width: int, enqueued: int) -> dict[str, jax.Array]:
    """A queue of `size` random directions, of which an update replaces the oldest `enqueued`.

    Raises:
      UserError: if updates do not fill it evenly.
    """
    if size % enqueued:
        raise UserError(
            f"config.method.queue_size is {size}, but an update enqueues {enqueued} embeddings at this "
            f"config.batch_size: make it a multiple of {enqueued}."
        )
    rows = losses.l2_normalize(jax.random.normal(rng, (size, width)))
    return {"rows": rows, "pointer": jnp.zeros((), jnp.int32)}


def enqueue(queue: dict[str, jax.Array], keys: jax.Array) -> dict[str, jax.Array]:
    """Replaces the oldest rows by `keys` [N, D]; first in, first out."""
    rows = jax.lax.dynamic_update_slice_in_dim(queue["rows"], keys, queue["pointer"], 0)
    return {"rows": rows, "pointer": (queue["pointer"] + len(keys)) % len(rows)}


class Head(nn.Module):
    """Dense layers with biases, ReLUs between them and no norm; without hidden layers the `fc` of v1."""

    hidden: tuple[int, ...]
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, D] -> [B, out]
        del train
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=torch_uniform, name=f"dense{i + 1}")(x))
        return nn.Dense(self.out, dtype=self.dtype, kernel_init=torch_uniform, name="out")(x)


@dataclasses.dataclass(frozen=True)
class MoCoV1(Method):
    """Momentum contrast."""

    view1: View = recipes.MOCO_V1  # of the query, sec. 3.3
    view2: View = recipes.MOCO_V1  # of the key
    temperature: Positive = 0.07  # tau, eq. 1
    queue_size: int = 65536  # K, sec. 4.1
    m: Share = 0.999  # weight of the old key network, eq. 2
    hidden: tuple[int, ...] = ()  # widths of the head's hidden layers; v2: (2048,)
    out: Several = 128  # width of q and k, sec. 3.3
    symmetric: bool = False  # each view is query and key, and both sets of keys enter the queue (CIFAR demo)
    scale: float = 1.0  # of the sum of the directions; 0.5: lightly and solo-learn, where it is symmetric

    def _head(self) -> Head:
        return Head(self.hidden, self.out, self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        queue_rng, rng = jax.random.split(rng)
        enqueued = info.batch_size * (1 + self.symmetric)
        queue = new_queue(queue_rng, self.queue_size, self.out, enqueued)
        params, stats = initialise({"backbone": self.backbone, "projector": self._head()}, rng, batch["view1"])
        key = jax.tree.map(jnp.copy, {"params": params, "stats": stats})
        return params, {"stats": stats, "key": key, "queue": queue}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        stats, xi, xi_stats = state["stats"], state["key"]["params"], state["key"]["stats"]
        xi = optax.incremental_update(jax.lax.stop_gradient(params), xi, 1 - self.m)  # eq. 2
        directions = (("view1", "view2"), ("view2", "view1")) if self.symmetric else (("view1", "view2"),)
        h, q, keys, terms = {}, {}, {}, []
        for i, (v, other) in enumerate(directions):
            h[v], stats = apply(self.backbone, "backbone", params, stats, batch[v], train=train)
            q[v], stats = apply(self._head(), "projector", params, stats, h[v], train=train)
            order_rng = jax.random.fold_in(rng, i)
            keys[v], xi_stats = self._keys(xi, xi_stats, batch[other], order_rng, batch["position"], train)
            own = dist.positions(len(q[v]))
            terms.append(info_nce(q[v], keys[v][own], state["queue"]["rows"], temperature=self.temperature))
        queue = enqueue(state["queue"], jnp.concatenate(list(keys.values())))
        in_batch = losses.similarity(losses.l2_normalize(q["view1"]), keys["view1"])
        metrics = {
            "queue_accuracy": Metric(sum(right for _, right in terms) / len(terms)),
            # The queue of a small data set holds older keys of the same images, the batch does not.
            "batch_top1": Metric(losses.accuracy(in_batch, own)),
            "query_std": Metric(losses.spread(q["view1"], dist.AXIS), kind="std"),
        }
        state = {"stats": stats, "key": {"params": xi, "stats": xi_stats}, "queue": queue}
        aux = Aux(metrics, jax.lax.stop_gradient(h["view1"]))
        return self.scale * sum(loss for loss, _ in terms), (state, aux)

    def _keys(self, xi, stats, x, rng, position, train):
        """Normalised keys [N, out] of the global batch, in its order, and the key network's statistics.

        The rows are encoded in a random order, so that a key's group of BatchNorm is not its query's.
        """
        shuffle = train and self.backbone.bn_groups > 1
        if shuffle:
            order = dist.random_order(rng, dist.gather(position))
            x = dist.gather(x)[order[dist.positions(len(x))]]
        y, stats = apply(self.backbone, "backbone", xi, stats, x, train=train)
        k, stats = apply(self._head(), "projector", xi, stats, y, train=train)
        keys = dist.gather(losses.l2_normalize(k))
        return keys[jnp.argsort(order)] if shuffle else keys, stats

    def chance(self, info: Info) -> float:
        """All embeddings equal: the key is as likely as everything in the queue."""
        return self.scale * (1 + self.symmetric) * math.log(1 + self.queue_size)

    def best(self, info: Info) -> float:
        """Images known by heart: the queue holds K / n older keys of each."""
        return self.scale * (1 + self.symmetric) * math.log(1 + self.queue_size / info.num_examples)
