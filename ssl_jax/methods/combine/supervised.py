"""Supervised learning: what the self-supervised methods are compared with, on the same backbone and the same step.

Cross-entropy on the labels through one linear layer. Trained on some of the classes it is the base network of Yosinski
et al. 2014 (arXiv 1411.1792): `python -m ssl_jax.evaluate --evals=fine_tune` copies its first stages to another task.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.models.heads import Classifier
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def known_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy over the labelled rows of the global batch.

    Rows differ in number between replicas, so that each replica's value is its sum over the mean number a replica:
    the mean over the replicas is the mean over all labelled rows.

    Args:
      logits: [n, K] of this replica.
      labels: [n] integers, -1 where unknown.

    Returns:
      loss and share of correct rows, scalars of this replica; both 0 where the global batch has no label.
    """
    known = labels >= 0
    count = jnp.maximum(dist.mean(known.sum().astype(jnp.float32)), 1e-6)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    correct = jnp.argmax(logits, -1) == labels
    return jnp.sum(losses, where=known) / count, jnp.sum(correct, where=known) / count


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """A classifier of the labels, from end to end."""

    needs = frozenset({"labels"})

    view: View = recipes.ROTNET  # crop and flip, as supervised baselines have it
    classes: tuple[int, ...] = ()  # the labels it is taught, others count as unknown; (): all (Yosinski's task A or B)

    def _head(self, info: Info) -> Classifier:
        unknown = [c for c in self.classes if not 0 <= c < info.num_classes]
        if not info.num_classes or unknown:
            raise UserError(
                f"The method supervised needs labels, and the training images have {info.num_classes} classes "
                f"(config.method.classes is {self.classes}): choose labelled data, and classes from 0 to "
                f"{max(info.num_classes - 1, 0)}."
            )
        return Classifier(info.num_classes)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "classifier": self._head(info)}
        params, stats = initialise(parts, rng, batch["view"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        h, stats = apply(self.backbone, "backbone", params, state["stats"], batch["view"], train=train)
        logits, stats = apply(self._head(info), "classifier", params, stats, h, train=train)
        loss, top1 = known_cross_entropy(self._masked(logits), self._known(batch["label"]))
        aux = Aux({"supervised_top1": Metric(top1)}, jax.lax.stop_gradient(h))
        return loss, ({"stats": stats}, aux)

    def predict(self, params, state, images):
        """Logits of all classes; those that are not taught get minus infinity."""
        encoded, _ = self.encode(self.variables(params, state), images)
        head = Classifier(params["classifier"]["linear"]["kernel"].shape[1])
        logits, _ = apply(head, "classifier", params, state["stats"], encoded.pooled, train=False)
        return self._masked(logits)

    def _known(self, labels: jax.Array) -> jax.Array:
        if not self.classes:
            return labels
        return jnp.where(jnp.isin(labels, jnp.array(self.classes)), labels, -1)

    def _masked(self, logits: jax.Array) -> jax.Array:
        """Classes that are not taught are no answer either."""
        if not self.classes:
            return logits
        return jnp.where(jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(self.classes)), logits, -jnp.inf)

    def chance(self, info: Info) -> float:
        """Every class is as likely."""
        return math.log(len(self.classes) or info.num_classes)
