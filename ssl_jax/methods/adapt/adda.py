"""ADDA: a network of the target that an adversary cannot tell from a frozen one of the source.

Tzeng et al. 2017 (arXiv 1702.05464). The first part of a run trains a network on the labels of the source. Then it is
copied and frozen; the network itself, which from here on sees the target alone, learns to make an adversary take its
answers for those of the frozen one on the source, while the adversary learns to tell them apart. Follows the authors'
code (erictzeng/adda): the adversary reads the class logits, the classifier is a part of what is copied and moved, and
the network's loss is the cross-entropy with inverted labels over both domains, so that the half of the source, which
has no gradient, adds a factor 1/2. Decisions:

- one run has both parts, `pretrained` of it the first; `config.optim` is of both, with `schedule='steps'` for the
  lower rate of the second;
- both networks are moved in each update, as in the code;
- the frozen network uses its running statistics.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssl_jax import dist, losses
from ssl_jax.methods.contract import Aux, Batch, Info, Metric
from ssl_jax.methods.shared.two_domains import TwoDomains
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def adversary_loss(source: jax.Array, target: jax.Array) -> jax.Array:
    """Mean cross-entropy of the adversary's logits [n, 2] over both domains: the source is 0, the target 1."""
    logits = jnp.concatenate([source, target])
    return losses.cross_entropy(logits, (jnp.arange(len(logits)) >= len(source)).astype(jnp.int32))


def mapping_loss(source: jax.Array, target: jax.Array) -> jax.Array:
    """The same with inverted labels."""
    return adversary_loss(target, source)


@dataclasses.dataclass(frozen=True)
class ADDA(TwoDomains):
    """Labels of the source first; then a target network against an adversary."""

    domain_hidden: tuple[int, ...] = (500, 500)  # of the adversary
    pretrained: float = 0.5  # share of the run that trains on the source

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not 0 < self.pretrained <= 1:
            raise UserError(f"config.method.pretrained is {self.pretrained}: it is above 0 and at most 1.")

    def _adversary(self) -> nn.Module:
        return self.head(self.domain_hidden, 2)

    def _switch(self, info: Info) -> int:
        """The update that is the first of the second part."""
        return max(1, round(self.pretrained * info.total_steps))

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, state = super().init(rng, batch, info)
        logits = jnp.zeros((2, info.num_classes))
        more, also = initialise({"adversary": self._adversary()}, jax.random.fold_in(rng, 7), logits)
        frozen = {"params": params, "stats": state["stats"]}
        return params | more, {"stats": state["stats"] | also, "source": jax.tree.map(jnp.copy, frozen)}

    def _logits(self, params, stats, images, info, train):  # type: ignore[no-untyped-def]
        h, stats = apply(self.backbone, "backbone", params, stats, images, train=train)
        logits, stats = apply(self.classifier(info), "classifier", params, stats, h, train=train)
        return h, logits.astype(jnp.float32), stats

    def adaptation(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        source, target, labels = batch["source"]["view"], batch["target"]["view"], batch["source"]["label"]
        second = step >= self._switch(info)
        h, logits, stats = self._logits(params, state["stats"], jnp.where(second, target, source), info, train)
        frozen = jax.lax.stop_gradient(state["source"])
        _, other, _ = self._logits(frozen["params"], frozen["stats"], source, info, False)
        fixed = jax.lax.stop_gradient

        def told(params: Any, x: jax.Array) -> jax.Array:
            return apply(self._adversary(), "adversary", params, stats, x, train=train)[0].astype(jnp.float32)

        own, theirs = told(params, fixed(logits)), told(params, fixed(other))
        against = adversary_loss(theirs, own)
        mapping = mapping_loss(told(fixed(params), other), told(fixed(params), logits))
        first = jnp.where(second, other, logits)  # both of the source
        _, metrics = self.label_metrics(first, labels, info)
        known = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        right = jnp.concatenate([theirs[:, 0] > theirs[:, 1], own[:, 1] > own[:, 0]])
        everywhere = jax.lax.all_gather(jax.nn.softmax(fixed(logits)).mean(0), dist.AXIS)
        metrics |= {
            "adversary_loss": Metric(against, kind="value"),
            "adversary_accuracy": Metric(jnp.mean(right, dtype=jnp.float32), kind="value"),
            # All answers in one class: the target network has collapsed.
            "largest_class": Metric(jnp.max(everywhere.mean(0)), kind="value"),
        }
        aux = Aux(metrics, fixed(h), jnp.where(second, -1, labels))
        return jnp.where(second, mapping + against, known), ({**state, "stats": stats}, aux)

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        """In the first part the frozen network is the one that learns."""
        now = {
            "params": {name: params[name] for name in ("backbone", "classifier")},
            "stats": {name: state["stats"][name] for name in ("backbone", "classifier")},
        }
        learns = step < self._switch(info)
        source = jax.tree.map(lambda new, old: jnp.where(learns, new, old), now, state["source"])
        return params, {**state, "source": source}
