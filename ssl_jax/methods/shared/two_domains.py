"""What methods have in common that adapt from labelled source images to a target without labels, or with a few.

With `config.data.target_labels` so many images of each class of the target have a label. Then a batch has a third part,
as large as each half, of these images, and their cross-entropy is added to the loss of the method. It is that of the
network of the target, and in training the statistics of a BatchNorm are those of the part, which has as many images of
every class; the running statistics do not follow them, since the images are few. All images of the target, these too,
are in its half as before.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import losses
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Joined, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def ramp(progress: jax.Array) -> jax.Array:
    """The weight of adaptation for the share of the run that is done: 0 at the start, .99991 at the end.

    2 / (1 + exp(-10 p)) - 1, as Ganin et al. 2016 (sec. 5.2.2) and DAN have it.
    """
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
class TwoDomains(Method):
    """Batches of half source and half target, and a classifier of the source's labels; `adaptation` is the method's."""

    needs = frozenset({"labels", "domains"})

    view: View = recipes.ROTNET  # of both domains
    hidden: tuple[int, ...] = ()  # of the label classifier

    @property
    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if info.batch_size % 2:
            raise UserError(
                f"config.batch_size is {info.batch_size}: half of it are images of each domain, make it even."
            )
        half, rows = info.batch_size // 2, domain_rows(data, self._name)
        sizes = {"source": half, "target": half}
        if info.target_labels:
            rows["known"] = rows["target"][data.labels[rows["target"]] >= 0]
            sizes["known"] = half
        return Joined(rows, sizes)

    def classifier(self, info: Info) -> nn.Module:
        """The classifier of the labels."""
        if not info.num_classes:
            raise UserError(
                f"The method {self._name} needs labels, and config.data.source has none: choose labelled data."
            )
        return self.head(self.hidden, info.num_classes)

    def head(self, hidden: tuple[int, ...], out: int) -> nn.Module:
        """Dense layers without BatchNorm, or those of the labels would know the source alone."""
        return MLP(hidden, out, hidden_bias=True, hidden_norm=False, dtype=self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self.backbone, "classifier": self.classifier(info)}, rng, batch["view"])
        return params, {"stats": stats}

    def adaptation(
        self,
        params: Any,
        state: Any,
        batch: Batch,
        *,
        rng: jax.Array,
        step: jax.Array,
        info: Info,
        train: bool = True,
    ) -> tuple[jax.Array, tuple[Any, Aux]]:
        """The loss of a batch with the parts `source` and `target`, as `loss` is; the target's labels are not read."""
        raise NotImplementedError

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        loss, (state, aux) = self.adaptation(params, state, batch, rng=rng, step=step, info=info, train=train)
        if not info.target_labels:
            return loss, (state, aux)
        known = batch["known"]
        h, stats = apply(self.backbone, "backbone", params, state["stats"], known["view"], train=train)
        logits, _ = apply(self.classifier(info), "classifier", params, stats, h, train=train)
        few, found = self.label_metrics(logits, known["label"], info)
        metrics = aux.metrics | {f"target_{name}": metric for name, metric in found.items()}
        return loss + few, (state, aux._replace(metrics=metrics))

    def chance(self, info: Info) -> float:
        """Every class is as likely, in the source and for the known labels of the target; nothing else is at fault."""
        return math.log(info.num_classes) * (2 if info.target_labels else 1) + self.best(info)

    def beside(self, rng: jax.Array, batch: Batch, parts: dict[str, nn.Module]) -> tuple[Any, Any]:
        """Parameters and statistics of a further head on the features of the backbone."""
        x = batch["view"]
        h = jax.eval_shape(lambda: self.backbone.init_with_output(rng, x, train=True)[0])
        return initialise(parts, jax.random.fold_in(rng, 7), jnp.zeros(h.shape, h.dtype))

    def features(self, params: Any, stats: Any, batch: Batch, train: bool) -> tuple[jax.Array, int, Any]:
        """Features [2 n, D] of both halves, source first, n and the statistics.

        Both go through the network together, so that its BatchNorm has the statistics of both.
        """
        x = jnp.concatenate([batch["source"]["view"], batch["target"]["view"]])
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
        return h, len(batch["source"]["view"]), stats

    def label_metrics(self, logits: jax.Array, labels: jax.Array, info: Info) -> tuple[jax.Array, dict[str, Metric]]:
        """Cross-entropy of the source's labels, and what is reported of it."""
        loss = losses.cross_entropy(logits, labels)
        top1 = losses.accuracy(logits, labels)
        return loss, {"label_loss": Metric(loss, kind="loss"), "label_top1": Metric(top1, chance=1 / info.num_classes)}

    def predict(self, params: Any, state: Any, images: jax.Array) -> jax.Array:
        """Class logits [B, C] of normalised images of either domain."""
        width = jax.tree.leaves(params["classifier"])[-1].shape[-1]
        encoded, _ = self.encode(self.variables(params, state), images)
        head = self.head(self.hidden, width)
        logits, _ = apply(head, "classifier", params, state["stats"], encoded.pooled, train=False)
        return logits.astype(jnp.float32)
