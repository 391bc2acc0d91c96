"""Supervised multi-task learning: several kinds of labels on one backbone, and one pass through it.

The weighted sum of the tasks' losses moves the backbone (Caruana 1997). Each task has a head of its own: a linear layer
for the class of an image, and two 3x3 convolutions with a linear layer (`FCNHead`) for what every pixel is to be
answered with. A run of a single task is what the joint one is compared with: a task that is worse in company has
suffered negative transfer. Losses are those of the evaluations of dense prediction, each a mean over the known pixels
of an image and then over the images, so that all images weigh the same. Left out: weights that are learned.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.augment.targets import Field
from ssl_jax.augment.view import View
from ssl_jax.methods.combine.supervised import known_cross_entropy
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.metrics import boundaries, depth, normals
from ssl_jax.metrics.segmentation import IGNORE, cross_entropy, upsampled
from ssl_jax.models.dense_heads import FCNHead
from ssl_jax.models.heads import Classifier
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError, nearest


class Dense(NamedTuple):
    """A task of every pixel."""

    field: str  # of the data set
    channels: int  # of the answer; 0: one for each class of the masks
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # of answers [B, H, W, channels] and the truth


def mask_loss(logits: jax.Array, masks: jax.Array) -> jax.Array:
    """Cross-entropy of the pixels; what is of no class, or beyond the image, counts nowhere."""
    known = (masks >= 0) & (masks < logits.shape[-1])
    return cross_entropy(logits, jnp.where(known, masks, IGNORE))


DENSE: Mapping[str, Dense] = MappingProxyType(
    {
        "segmentation": Dense("mask", 0, mask_loss),
        "depth": Dense("depth", 1, lambda x, truth: depth.eigen_loss(x[..., 0], truth)),
        "normals": Dense("normals", 3, normals.loss),
        "boundaries": Dense("boundary", 1, lambda x, truth: boundaries.balanced_loss(x[..., 0], truth)),
    }
)
TASKS = ("class", *DENSE)
CROP = View(size=48, crop="shift", pad=0, order=("crop",))


def image_losses(task: str, answers: jax.Array, truth: jax.Array) -> jax.Array:
    """The loss [B] of each image in a task of every pixel, of answers [B, H, W, channels] of the truth's size."""
    return jax.vmap(lambda x, y: DENSE[task].loss(x[None], y[None]))(answers, truth)


@dataclasses.dataclass(frozen=True)
class SupervisedMultitask(Method):
    """Several labelled targets on one backbone."""

    needs = frozenset({"labels", "masks"})

    view: View = CROP  # not mirrored, which would turn normals round
    labels: tuple[str, ...] = TASKS  # that are learnt; one alone is what the others are compared with
    weights: tuple[float, ...] = ()  # of the tasks' losses, in their order; (): 1 each
    classes: int = 4  # of the masks
    width: int = 64  # channels of the heads' convolutions

    pools_map = True

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        for task in self.labels:
            if task not in TASKS:
                raise UserError(f"config.method.labels has '{task}', which is no task. {nearest(task, TASKS)}")
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise UserError(f"config.method.labels is {self.labels}: name at least one of {TASKS}, each once.")
        if self.weights and len(self.weights) != len(self.labels):
            raise UserError(
                f"config.method.weights has {len(self.weights)} numbers for {len(self.labels)} tasks: give one for "
                "each of config.method.labels, or none."
            )
        if "normals" in self.labels and self.view.flip:
            raise UserError(
                f"config.method.view.flip is {self.view.flip}, which would turn normals round: set it to 0, or leave "
                "'normals' out of config.method.labels."
            )

    def targets(self) -> dict[str, Field]:
        return {f"seen_{task}": Field(DENSE[task].field, like="view") for task in self.labels if task in DENSE}

    def _heads(self, info: Info) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for task in self.labels:
            if task in DENSE:
                found[task] = FCNHead(DENSE[task].channels or self.classes, self.width, dilation=1)
            elif info.num_classes:
                found[task] = Classifier(info.num_classes)
            else:
                raise UserError("config.method.labels has 'class', but the training images have no labels: drop it.")
        return found

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        x = batch["view"]
        params, stats = initialise({"backbone": self.backbone}, rng, x)
        h, _ = apply(self.backbone, "backbone", params, stats, x, train=False, pool=False)
        for i, (task, head) in enumerate(self._heads(info).items(), 1):
            made = head.init(jax.random.fold_in(rng, i), h if task in DENSE else h.mean((1, 2)), train=True)
            params[task], stats[task] = made["params"], made.get("batch_stats", {})
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step
        x = batch["view"]
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x, train=train, pool=False)
        pooled, total, metrics = h.mean((1, 2)).astype(jnp.float32), jnp.zeros(()), {}
        chances = self._chances(info)
        for weight, (task, head) in zip(self._weights(), self._heads(info).items(), strict=True):
            answers, stats = apply(head, task, params, stats, h if task in DENSE else pooled, train=train)
            if task in DENSE:
                truth = batch[f"seen_{task}"]
                loss = image_losses(task, upsampled(answers, (truth.shape[1], truth.shape[2])), truth).mean()
            else:
                loss, top1 = known_cross_entropy(answers, batch["label"])
                metrics["label_top1"] = Metric(top1, 1 / info.num_classes)
            metrics[f"{task}_loss"] = Metric(loss, chances[task], "loss")
            total += weight * loss
        return total, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(pooled)))

    def predict(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """Class logits, where that is a task."""
        if "class" not in self.labels:
            return None
        encoded, _ = self.encode(self.variables(params, state), images)
        head = Classifier(params["class"]["linear"]["kernel"].shape[1])
        return apply(head, "class", params, state["stats"], encoded.pooled, train=False)[0]

    def segment(self, params: Any, state: Any, images: jax.Array) -> jax.Array | None:
        """Logits of the masks, where they are a task."""
        if "segmentation" not in self.labels:
            return None
        encoded, _ = self.encode(self.variables(params, state), images)
        head = FCNHead(self.classes, self.width, dilation=1)
        answers, _ = apply(head, "segmentation", params, state["stats"], encoded.map, train=False)  # type: ignore[arg-type]
        return upsampled(answers, (images.shape[1], images.shape[2]))

    def _weights(self) -> tuple[float, ...]:
        return self.weights or (1.0,) * len(self.labels)

    def _chances(self, info: Info) -> dict[str, float | None]:
        """The loss of an answer by chance in each task, where it is known: every class is as likely."""
        known = {"class": math.log(max(info.num_classes, 1)), "segmentation": math.log(self.classes)}
        return {task: known.get(task) for task in self.labels}

    def chance(self, info: Info) -> float | None:
        """The weighted sum, where each is known."""
        chances = self._chances(info).values()
        known = [weight * chance for weight, chance in zip(self._weights(), chances, strict=True) if chance is not None]
        return sum(known) if len(known) == len(self.labels) else None
