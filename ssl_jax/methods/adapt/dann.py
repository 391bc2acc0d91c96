"""DANN: domain adaptation by a domain classifier behind a gradient reversal layer.

Ganin et al. 2016 (arXiv 1505.07818). A batch is half labelled images of the source and half images of the target. A
classifier learns the labels of the source; a second one tells the domains apart, and the backbone is moved against it:
between the two lies a gradient reversal layer, which multiplies what comes back by -lambda. Lambda rises with the
progress p of training, 2 / (1 + exp(-10 p)) - 1 (sec. 5.2.2). Follows the authors' formulas as tf-dann has them: the
weight is in the reversal alone, so that the domain classifier learns at full rate. Decisions:

- both halves go through the network together, so that a backbone's BatchNorm has the statistics of both; the
  classifiers have none, as the authors', or that of the labels would know the source alone;
- labels of the target are never read: they are there to measure by.
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


@dataclasses.dataclass(frozen=True)
class DANN(TwoDomains):
    """Labels of the source, and a domain classifier behind a reversed gradient."""

    domain_hidden: tuple[int, ...] = (100,)  # of the domain classifier, fig. 4 for digits
    weight: float = 1.0  # most that the reversed gradient is multiplied by

    def _discriminator(self) -> nn.Module:
        return self.head(self.domain_hidden, 1)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        more, also = self.beside(rng, batch, {"discriminator": self._discriminator()})
        return params | more, {"stats": state["stats"] | also}

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        h, count, stats = self.features(params, state["stats"], batch, train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h[:count], train=train)
        weight = self.weight * ramp(step / info.total_steps)
        turned = losses.reverse_gradient(h.astype(jnp.float32), weight)
        domain, stats = apply(self._discriminator(), "discriminator", params, stats, turned, train=train)
        is_target = (jnp.arange(len(h)) >= count).astype(jnp.float32)
        domain_loss = optax.sigmoid_binary_cross_entropy(domain[:, 0].astype(jnp.float32), is_target).mean()
        labels = batch["source"]["label"]
        label_loss, metrics = self.label_metrics(logits, labels, info)
        metrics |= {
            "domain_loss": Metric(domain_loss, chance=math.log(2), kind="loss"),
            "domain_accuracy": Metric(jnp.mean((domain[:, 0] > 0) == (is_target > 0), dtype=jnp.float32), kind="value"),
            "reversal_weight": Metric(jnp.asarray(weight, jnp.float32), kind="value"),
        }
        # The probe learns from the source alone: labels of the target are not to be seen.
        aux = Aux(metrics, jax.lax.stop_gradient(h[:count]), labels)
        return label_loss + domain_loss, ({"stats": stats}, aux)

    def best(self, info: Info) -> float:
        """Labels are known, and domains are not."""
        del info
        return math.log(2)
