"""Domain confusion: a domain classifier, and features for which it can only guess.

Tzeng et al. 2015 (arXiv 1510.02192), sec. 3. A classifier of the domains learns with the features as they are; the
features learn to make its answer uniform, by the cross-entropy -(log p_source + log p_target) / 2 (eq. 4). Unlike a
reversed gradient it is smallest where the domains cannot be told apart, and not where they are mistaken for each other.
Decisions:

- both moves are made in each update, where the paper alternates;
- the weight rises over the run, 2 / (1 + exp(-10 p)) - 1, as DANN's;
- left out: the soft labels, which need some labels of the target.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssl_jax import losses
from ssl_jax.methods.contract import Aux, Batch, Info, Metric
from ssl_jax.methods.shared.two_domains import TwoDomains, ramp
from ssl_jax.models.parts import apply


def confusion(logits: jax.Array) -> jax.Array:
    """Mean cross-entropy between the uniform distribution and logits [N, K]; ln K at best."""
    uniform = jnp.full(logits.shape, 1 / logits.shape[-1])
    return optax.softmax_cross_entropy(logits, uniform).mean()


@dataclasses.dataclass(frozen=True)
class DomainConfusion(TwoDomains):
    """Labels of the source, a domain classifier, and features that confuse it."""

    domain_hidden: tuple[int, ...] = (100,)  # of the domain classifier
    weight: float = 1.0  # of the confusion, at the end of the run

    def _discriminator(self) -> nn.Module:
        return self.head(self.domain_hidden, 2)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        more, also = self.beside(rng, batch, {"discriminator": self._discriminator()})
        return params | more, {"stats": state["stats"] | also}

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        h, count, stats = self.features(params, state["stats"], batch, train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h[:count], train=train)
        labels = batch["source"]["label"]
        label_loss, metrics = self.label_metrics(logits, labels, info)
        h = h.astype(jnp.float32)
        fixed = jax.lax.stop_gradient
        domain = (jnp.arange(len(h)) >= count).astype(jnp.int32)
        seen, _ = apply(self._discriminator(), "discriminator", params, stats, fixed(h), train=train)
        told, _ = apply(self._discriminator(), "discriminator", fixed(params), stats, h, train=train)
        domain_loss, confused = losses.cross_entropy(seen.astype(jnp.float32), domain), confusion(told)
        metrics |= {
            "domain_loss": Metric(domain_loss, chance=math.log(2), kind="loss"),
            "domain_accuracy": Metric(losses.accuracy(seen, domain), kind="value"),
            "confusion": Metric(confused, kind="value"),
        }
        aux = Aux(metrics, fixed(h[:count]), labels)
        weight = self.weight * ramp(step / info.total_steps)
        return label_loss + domain_loss + weight * confused, ({"stats": stats}, aux)

    def best(self, info: Info) -> float:
        """Labels are known, and domains are not."""
        del info
        return math.log(2)
