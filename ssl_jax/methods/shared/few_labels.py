"""Learning with few labels: which are known, and what the methods have in common that use unlabelled images too."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Joined, Sampler
from ssl_jax.methods.combine.supervised import known_cross_entropy
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Variables
from ssl_jax.metrics.subset import of_each, some_of_each
from ssl_jax.models.heads import Classifier
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError


def labelled_rows(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Images whose labels are known: the same share of each class, and the same images in every run.

    A larger fraction has the images of a smaller one, and others.

    Args:
      labels: int [N], -1 where there is none.
      fraction: of each class, rounded to whole images, at least one.

    Returns:
      rows [n], int64, in rising order.
    """
    return of_each(labels, lambda size: max(1, round(fraction * size)))


def consistency(logits: jax.Array, targets: jax.Array, kind: str = "mse") -> jax.Array:
    """How far two answers to the same images are apart, the mean over images; gradient goes through both.

    Args:
      logits: [n, K].
      targets: logits [n, K] that they are to agree with.
      kind: 'mse': mean over the classes of the squared difference of probabilities; 'sum': their sum, K times as much;
        'kl': divergence of the answer from the target.
    """
    if kind == "kl":
        wanted = jax.nn.log_softmax(targets)
        return jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - jax.nn.log_softmax(logits)), -1))
    squared = jnp.square(jax.nn.softmax(logits) - jax.nn.softmax(targets))
    return jnp.mean(squared.sum(-1) if kind == "sum" else squared.mean(-1))


def ramp_up(share: jax.Array, shape: str = "exp") -> jax.Array:
    """A weight that rises to 1 as `share` does: exp(-5 (1 - share)^2) (Laine & Aila), or, 'linear', as the share."""
    share = jnp.clip(share, 0.0, 1.0)
    return jnp.exp(-5 * jnp.square(1 - share)) if shape == "exp" else share


@dataclasses.dataclass(frozen=True)
class SemiSupervised(Method):
    """Cross-entropy on a few labelled images, and a loss of the network's answers to unlabelled ones.

    A batch is `batch_size / (1 + ratio)` labelled images and `ratio` times as many of all training images, whose labels
    are not looked at but to measure. Which labels are known is drawn once, as many of each class. All images of a batch
    go through the network together, so that BatchNorm has the statistics of both kinds. With `weight` 0 unlabelled
    images are not looked at: this is the supervised baseline on the same labels. Evaluation has the moving average of
    the weights, with the running statistics of the network itself, which fit weights of late updates alone: so early on
    the average covers about the last tenth of the updates.
    """

    needs = frozenset({"labels"})
    ramp_shape: ClassVar[str] = "exp"

    view: View = dataclasses.replace(recipes.ROTNET_CIFAR)  # noqa: RUF009  (pad, cut and flip)
    labels_per_class: int = 25  # whose labels are known
    ratio: int = 1  # unlabelled images of a batch for each labelled one
    weight: float = 1.0  # of the loss of unlabelled images; 0: supervised, on the labels that are known
    ramp: float = 0.4  # share of the updates during which that weight rises
    average: float = 0.999  # decay of the moving average of the weights, which is evaluated; 0: there is none

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if not 0 <= self.average < 1 or not 0 <= self.ramp <= 1:
            raise UserError(
                f"config.method.average is {self.average} and ramp {self.ramp}: the first is at least 0 and below 1, "
                "the second from 0 to 1."
            )

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        known = info.batch_size // (1 + self.ratio)
        if info.batch_size % (1 + self.ratio):
            raise UserError(
                f"config.batch_size is {info.batch_size}: with {self.ratio} unlabelled images for each labelled one "
                f"(config.method.ratio) it has to be a multiple of {1 + self.ratio}."
            )
        rows = {
            "labelled": some_of_each(data.labels, self.labels_per_class),
            "unlabelled": np.arange(len(data.images)),
        }
        return Joined(rows, {"labelled": known, "unlabelled": self.ratio * known})

    def _classifier(self, info: Info) -> Classifier:
        if not info.num_classes:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(f"The method {name} needs labels, and config.data.source has none: choose labelled data.")
        return Classifier(info.num_classes)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "classifier": self._classifier(info)}
        params, stats = initialise(parts, rng, batch[next(iter(self.views()))])
        averaged = {"average": jax.tree.map(jnp.copy, params)} if self.average else {}
        return params, {"stats": stats, **averaged}

    def _answer(self, params: Any, stats: Any, x: jax.Array, info: Info, train: bool) -> Any:
        """Logits and features of images, and the statistics."""
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train)
        logits, stats = apply(self._classifier(info), "classifier", params, stats, h, train=train)
        return logits, h, stats

    def _unlabelled_images(self, part: Batch, rng: jax.Array) -> list[jax.Array]:
        """The images of the unlabelled part that go through the network, in each of their views."""
        del rng
        return [part[name] for name in self.views()]

    def _unlabelled_loss(
        self, answers: list[jax.Array], state: Any, part: Batch, info: Info, train: bool
    ) -> tuple[jax.Array, Any, Mapping[str, Metric]]:
        """Loss of the answers [n, K] to each of those views, the state, and metrics."""
        raise NotImplementedError

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        known, rest = batch["labelled"], batch["unlabelled"]
        images = [known[next(iter(self.views()))]]
        if self.weight:
            images += self._unlabelled_images(rest, rng)
        count = len(images[0])
        logits, h, stats = self._answer(params, state["stats"], jnp.concatenate(images), info, train)
        state = {**state, "stats": stats}
        loss, top1 = known_cross_entropy(logits[:count], known["label"])
        metrics = {
            "label_loss": Metric(loss, math.log(info.num_classes), kind="loss"),
            "label_top1": Metric(top1, 1 / info.num_classes),
        }
        if self.weight:
            answers = jnp.split(logits[count:], len(images) - 1)
            other, state, more = self._unlabelled_loss(answers, state, rest, info, train)
            loss = loss + self.weight * self._ramp(step, info) * other
            metrics |= {"unlabelled_loss": Metric(other, kind="value"), **more}
        # The probe learns from the labels that are known.
        return loss, (state, Aux(metrics, jax.lax.stop_gradient(h[:count]), known["label"]))

    def _ramp(self, step: jax.Array, info: Info) -> jax.Array | float:
        return ramp_up(step / (self.ramp * info.total_steps), self.ramp_shape) if self.ramp else 1.0

    def after_update(self, params: Any, state: Any, step: jax.Array, info: Info) -> tuple[Any, Any]:
        del info
        if not self.average:
            return params, state
        decay = jnp.minimum(self._early(step), self.average)
        return params, {**state, "average": optax.incremental_update(params, state["average"], 1 - decay)}

    def _early(self, step: jax.Array) -> jax.Array:
        """Decay of the average while updates are few: TensorFlow's, which its averages have with `num_updates`."""
        return (1 + step) / (10 + step)

    def variables(self, params: Any, state: Any) -> Variables:
        return super().variables(state.get("average", params), state)

    def predict(self, params, state, images):
        encoded, _ = self.encode(self.variables(params, state), images)
        params = state.get("average", params)
        head = Classifier(params["classifier"]["linear"]["kernel"].shape[1])
        return apply(head, "classifier", params, state["stats"], encoded.pooled, train=False)[0]

    def chance(self, info: Info) -> float:
        """Every class is as likely, in all views."""
        return math.log(info.num_classes)
