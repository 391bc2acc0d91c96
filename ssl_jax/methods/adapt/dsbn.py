"""DSBN: one network for two domains, in which each has BatchNorm of its own.

Chang et al. 2019 (arXiv 1906.03950). Every BatchNorm is there once for each domain, with its own scale, offset and
statistics; all other weights are shared. On top of it stands a method of adaptation: here a domain classifier behind a
reversed gradient. Follows the authors' code (woozch/DSBN): domain loss times .1, its weight risen over the run.
Decisions:

- the two halves of a batch go through the network one after the other, each with its own BatchNorm;
- the network that is evaluated and taken away is that of the target, for images of the source as well;
- the base is DANN's loss, where the authors have MSTN or CPUA; left out is their second stage, pseudo-labels, which
  the method self_training makes (`config.init_from`).
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
from ssl_jax.runtime.errors import UserError


def norms(params: Any, stats: Any) -> Any:
    """The part of a tree of parameters that belongs to BatchNorm: what stands where there are running statistics."""
    found = {}
    for name, below in stats.items():
        if isinstance(below, dict) and name in params:
            inner = norms(params[name], below)
            if inner:
                found[name] = inner
        elif not isinstance(below, dict):
            return dict(params)  # the statistics of a layer: all its parameters
    return found


def merged(params: Any, other: Any) -> Any:
    """Parameters with those of `other`, a part of such a tree, in their places."""
    return {
        name: (merged(value, other[name]) if isinstance(value, dict) else other[name]) if name in other else value
        for name, value in params.items()
    }


@dataclasses.dataclass(frozen=True)
class DSBN(TwoDomains):
    """Labels of the source, BatchNorm of each domain, and a domain classifier behind a reversed gradient."""

    domain_hidden: tuple[int, ...] = (100,)  # of the domain classifier
    weight: float = 0.1  # of the domain loss for the features, at the end of the run

    def _discriminator(self) -> nn.Module:
        return self.head(self.domain_hidden, 1)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        own = norms(params["backbone"], state["stats"]["backbone"])
        if not own:
            raise UserError(
                "The method dsbn gives each domain its own BatchNorm, and this backbone has none: choose another "
                "config.model.name, with config.model.norm='batch'."
            )
        more, also = self.beside(rng, batch, {"discriminator": self._discriminator()})
        source = jax.tree.map(jnp.copy, own)
        stats = {**state["stats"], "source": jax.tree.map(jnp.copy, state["stats"]["backbone"])}
        return {**params, "source": source, **more}, {"stats": stats | also}

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        stats, labels = state["stats"], batch["source"]["label"]
        target, stats = apply(self.backbone, "backbone", params, stats, batch["target"]["view"], train=train)
        own = {"source": merged(params["backbone"], params["source"])}
        source, stats = apply(self.backbone, "source", own, stats, batch["source"]["view"], train=train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, source, train=train)
        label_loss, metrics = self.label_metrics(logits, labels, info)
        h = jnp.concatenate([source, target]).astype(jnp.float32)
        turned = losses.reverse_gradient(h, self.weight * ramp(step / info.total_steps))
        domain, stats = apply(self._discriminator(), "discriminator", params, stats, turned, train=train)
        is_target = (jnp.arange(len(h)) >= len(source)).astype(jnp.float32)
        domain_loss = optax.sigmoid_binary_cross_entropy(domain[:, 0].astype(jnp.float32), is_target).mean()
        metrics |= {
            "domain_loss": Metric(domain_loss, chance=math.log(2), kind="loss"),
            "domain_accuracy": Metric(jnp.mean((domain[:, 0] > 0) == (is_target > 0), dtype=jnp.float32), kind="value"),
        }
        aux = Aux(metrics, jax.lax.stop_gradient(source), labels)
        return label_loss + domain_loss, ({"stats": stats}, aux)

    def best(self, info: Info) -> float:
        """Labels are known, and domains are not."""
        del info
        return math.log(2)
