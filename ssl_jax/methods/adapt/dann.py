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
import numpy as np
import optax

from ssl_jax import losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Joined, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def reversal_weight(progress: jax.Array) -> jax.Array:
    """Lambda for the share of the run that is done: 0 at the start, .99991 at the end."""
    return 2 / (1 + jnp.exp(-10 * progress)) - 1


def domain_rows(data: Dataset, name: str) -> dict[str, np.ndarray]:
    """Rows of the source domains and of the target, which is the last domain.

    Args:
      data: of at least two domains.
      name: of the method, for the message.

    Raises:
      UserError: if the data are of one domain.
    """
    domain = np.asarray(data.fields.get("domain", np.zeros(1)))
    if domain.max() < 1:
        raise UserError(
            f"The method {name} needs two domains, and the training images have one: set --config.data.target to the "
            "images to adapt to, as --config.data.source names those with labels."
        )
    target = domain == domain.max()
    return {"source": np.flatnonzero(~target), "target": np.flatnonzero(target)}


@dataclasses.dataclass(frozen=True)
class DANN(Method):
    """Labels of the source, and a domain classifier behind a reversed gradient."""

    needs = frozenset({"labels", "domains"})

    view: View = recipes.ROTNET  # of both domains
    hidden: tuple[int, ...] = ()  # of the label classifier
    domain_hidden: tuple[int, ...] = (100,)  # of the domain classifier, fig. 4 for digits
    weight: float = 1.0  # most that the reversed gradient is multiplied by

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if info.batch_size % 2:
            raise UserError(
                f"config.batch_size is {info.batch_size}: half of it are images of each domain, make it even."
            )
        half = info.batch_size // 2
        return Joined(domain_rows(data, "dann"), {"source": half, "target": half})

    def _classifier(self, info: Info) -> nn.Module:
        if not info.num_classes:
            raise UserError("The method dann needs labels, and config.data.source has none: choose labelled data.")
        return self._head(self.hidden, info.num_classes)

    def _discriminator(self) -> nn.Module:
        return self._head(self.domain_hidden, 1)

    def _head(self, hidden: tuple[int, ...], out: int) -> nn.Module:
        return MLP(hidden, out, hidden_bias=True, hidden_norm=False, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        x = batch["view"]
        params, stats = initialise({"backbone": self.backbone, "classifier": self._classifier(info)}, rng, x)
        h = jax.eval_shape(lambda: self.backbone.init_with_output(rng, x, train=True)[0])
        features = jnp.zeros(h.shape, h.dtype)
        more, also = initialise({"discriminator": self._discriminator()}, jax.random.fold_in(rng, 7), features)
        return params | more, {"stats": stats | also}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng
        source, target = batch["source"], batch["target"]
        count = len(source["view"])
        x = jnp.concatenate([source["view"], target["view"]])
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x, train=train)
        logits, stats = apply(self._classifier(info), "classifier", params, stats, h[:count], train=train)
        weight = self.weight * reversal_weight(step / info.total_steps)
        turned = losses.reverse_gradient(h.astype(jnp.float32), weight)
        domain, stats = apply(self._discriminator(), "discriminator", params, stats, turned, train=train)
        is_target = (jnp.arange(len(x)) >= count).astype(jnp.float32)
        domain_loss = optax.sigmoid_binary_cross_entropy(domain[:, 0].astype(jnp.float32), is_target).mean()
        label_loss = losses.cross_entropy(logits, source["label"])
        metrics = {
            "label_loss": Metric(label_loss, kind="loss"),
            "label_top1": Metric(losses.accuracy(logits, source["label"]), chance=1 / info.num_classes),
            "domain_loss": Metric(domain_loss, chance=math.log(2), kind="loss"),
            "domain_accuracy": Metric(jnp.mean((domain[:, 0] > 0) == (is_target > 0), dtype=jnp.float32), kind="value"),
            "reversal_weight": Metric(jnp.asarray(weight, jnp.float32), kind="value"),
        }
        # The probe learns from the source alone: labels of the target are not to be seen.
        aux = Aux(metrics, jax.lax.stop_gradient(h[:count]), source["label"])
        return label_loss + domain_loss, ({"stats": stats}, aux)

    def predict(self, params: Any, state: Any, images: jax.Array) -> jax.Array:
        """Class logits [B, C] of normalised images of either domain."""
        width = jax.tree.leaves(params["classifier"])[-1].shape[-1]
        encoded, _ = self.encode(self.variables(params, state), images)
        head = self._head(self.hidden, width)
        logits, _ = apply(head, "classifier", params, state["stats"], encoded.pooled, train=False)
        return logits.astype(jnp.float32)

    def chance(self, info: Info) -> float:
        """Every class is as likely, and each domain."""
        return math.log(info.num_classes) + math.log(2)

    def best(self, info: Info) -> float:
        """Labels are known, and domains are not."""
        del info
        return math.log(2)
