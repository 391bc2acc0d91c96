"""Domain generalisation: a classifier of several labelled domains for one that is not there yet.

Every batch has as many images of each domain, all with labels. `align` says what is done beyond that, as DomainBed
(Gulrajani and Lopez-Paz 2020, arXiv 2007.01434) has it, where nothing ('none', ERM) is hard to beat:

- 'coral': the mean over pairs of domains of the squared gaps of their covariances and of their means;
- 'dann': a classifier of the domains behind a reversed gradient.

The domain that is left out takes no part: train on `config.data.source=A,B,C` and evaluate with `--data=D`. What is
chosen is to be chosen on test images of the domains that were trained on. Decisions:

- all images go through the network together, as DomainBed's do;
- DANN's weight rises over the run and there is one update of its classifier an update, where DomainBed draws both.
"""

import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Joined, Sampler
from ssl_jax.methods.adapt.deep_coral import covariance
from ssl_jax.methods.contract import Aux, Batch, Info, Metric
from ssl_jax.methods.shared.two_domains import TwoDomains, ramp
from ssl_jax.models.parts import apply
from ssl_jax.runtime.errors import UserError

_ALIGN = ("none", "coral", "dann")


def moments_gap(a: jax.Array, b: jax.Array) -> jax.Array:
    """DomainBed's CORAL: mean squared gap of the covariances of two sets of rows, plus that of their means."""
    return jnp.mean((covariance(a) - covariance(b)) ** 2) + jnp.mean((a.mean(0) - b.mean(0)) ** 2)


@dataclasses.dataclass(frozen=True)
class Generalisation(TwoDomains):
    """Labels of several domains, and features that are alike in all of them."""

    align: str = "none"  # none, coral or dann
    weight: float = 1.0  # of what aligns
    domains: int = 2  # that are trained on
    domain_hidden: tuple[int, ...] = (256, 256)  # of the domain classifier

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.align not in _ALIGN:
            raise UserError(f"config.method.align is '{self.align}': use {', '.join(_ALIGN)}.")

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        domain = np.asarray(data.fields.get("domain", np.zeros(len(data), int)))
        count = int(domain.max(initial=0)) + 1
        if count < 2 or count != self.domains or (data.labels < 0).any():
            raise UserError(
                f"The method generalisation needs several labelled domains, and there are {count} with "
                f"config.method.domains={self.domains}: give config.data.source that many with commas between, and no "
                "config.data.target."
            )
        if info.batch_size % count:
            raise UserError(f"config.batch_size is {info.batch_size}: make it a multiple of the {count} domains.")
        rows = {f"domain{number}": np.flatnonzero(domain == number) for number in range(count)}
        found = [set(np.unique(data.labels[of])) for of in rows.values()]
        if any(classes != found[0] for classes in found):
            raise UserError(
                "The domains have images of different classes, and the method generalisation needs the same in all: "
                "choose sources with the same names of classes, or rename the class folders."
            )
        return Joined(rows, dict.fromkeys(rows, info.batch_size // count))

    def _discriminator(self) -> nn.Module:
        return self.head(self.domain_hidden, self.domains)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        if self.align != "dann":
            return params, state
        more, also = self.beside(rng, batch, {"discriminator": self._discriminator()})
        return params | more, {"stats": state["stats"] | also}

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        parts = [batch[f"domain{number}"] for number in range(self.domains)]
        x, labels = (jnp.concatenate([part[name] for part in parts]) for name in ("view", "label"))
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x, train=train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h, train=train)
        loss, metrics = self.label_metrics(logits, labels, info)
        features = h.astype(jnp.float32).reshape(self.domains, -1, h.shape[-1])
        if self.align == "coral":
            everywhere = jax.lax.all_gather(features, dist.AXIS, axis=1, tiled=True)
            pairs = list(itertools.combinations(range(self.domains), 2))
            gap = sum(moments_gap(everywhere[i], everywhere[j]) for i, j in pairs) / len(pairs)
            metrics["moments_gap"] = Metric(gap, kind="value")
            loss = loss + self.weight * gap
        if self.align == "dann":
            turned = losses.reverse_gradient(features, self.weight * ramp(step / info.total_steps))
            turned = turned.reshape(h.shape)
            told, stats = apply(self._discriminator(), "discriminator", params, stats, turned, train=train)
            domain = jnp.repeat(jnp.arange(self.domains), len(parts[0]["label"]))
            domain_loss = losses.cross_entropy(told.astype(jnp.float32), domain)
            metrics["domain_loss"] = Metric(domain_loss, chance=math.log(self.domains), kind="loss")
            loss = loss + domain_loss
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h), labels))

    def best(self, info: Info) -> float:
        """Labels are known, and domains are not."""
        del info
        return math.log(self.domains) if self.align == "dann" else 0.0
