"""Prototypical networks: few-shot classification by the nearest class mean.

Snell, Swersky, Zemel 2017 (arXiv 1703.05175). An episode has a few classes with a few labelled images each (the
support); every class is the mean of its embeddings, and further images (queries) are classified by a softmax over
negative squared Euclidean distances to these prototypes (eq. 2). Follows the authors' code
(jakesnell/prototypical-networks): distances are sums over channels, and support and queries go through the network
together. Decisions:

- BatchNorm sees all episodes of an update; `config.model.bn_groups` = the episodes of an update gives each its own;
- the embedding is the backbone's pooled output, which for Conv-4 on 28-pixel images is the authors' flattened map.

Train with as many shots as will be used: prototypes of one image and of five are not alike (sec. 3.1).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Episodes, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import Several
from ssl_jax.models.parts import apply, initialise


def prototype_logits(support: jax.Array, queries: jax.Array) -> jax.Array:
    """Negative squared Euclidean distances of queries to class means.

    Args:
      support: embeddings [C, K, D], K of each class.
      queries: embeddings [N, D].

    Returns:
      [N, C], summed over channels.
    """
    prototypes = support.mean(1)
    return -jnp.sum(jnp.square(queries[:, None] - prototypes), -1)


@dataclasses.dataclass(frozen=True)
class ProtoNet(Method):
    """Softmax over distances to class means, in episodes."""

    needs = frozenset({"labels"})

    view: View = View(crop="centre")  # noqa: RUF009  (images as they are: rotations are classes of their own)
    ways: Several = 60  # classes of an episode, the authors' code for Omniglot
    shots: int = 5  # labelled images of each class
    queries: int = 5  # images of each class to be classified

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        return Episodes(data.labels, info.batch_size, self.ways, self.shots, self.queries)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        del info
        params, stats = initialise({"backbone": self.backbone}, rng, batch["view"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step, info
        x = batch["view"]  # [E, C, K + Q, H, W, 3]
        flat = x.reshape(-1, *x.shape[3:])
        h, stats = apply(self.backbone, "backbone", params, state["stats"], flat, train=train)
        z = h.astype(jnp.float32).reshape(*x.shape[:3], -1)
        support, queries = z[:, :, : self.shots], z[:, :, self.shots :]
        logits = jax.vmap(prototype_logits)(support, queries.reshape(len(x), -1, z.shape[-1]))
        answers = jnp.tile(jnp.repeat(jnp.arange(self.ways), self.queries), (len(x), 1))
        logits, answers = logits.reshape(-1, self.ways), answers.reshape(-1)
        metrics = {"episode_top1": Metric(losses.accuracy(logits, answers), chance=1 / self.ways)}
        aux = Aux(metrics, jax.lax.stop_gradient(h))
        return losses.cross_entropy(logits, answers), ({"stats": stats}, aux)

    def chance(self, info: Info) -> float:
        """All prototypes are as near."""
        del info
        return math.log(self.ways)
