"""S4L: cross-entropy on the few images that have labels, and a self-supervised loss on all.

Zhai, Oliver, Kolesnikov, Beyer 2019 (arXiv 1905.03670). The cross-entropy on the labels that are known, plus w times a
self-supervised loss on all images, on one backbone (eq. 1). A batch is half labelled and half unlabelled images.
S4L-Rotation averages the cross-entropy of a labelled image over its four rotations, S4L-Exemplar over its copies; the
self-supervised loss is the mean of those of the two halves. Both go through the network together. Follows the authors'
code (google-research/s4l: rotation.py, exemplar.py, utils.py). Decisions:

- which labels are known is drawn once, the same share of each class, where the authors have a list of files;
- unlabelled images are all training images, the labelled ones too, as the authors' are;
- an epoch is a pass over all images, where the authors count passes over the labelled ones;
- the triplets of S4L-Exemplar have an embedding of their own beside the classifier, and are looked for within a half;
- the backbone is this package's ResNet ("v1.5"), where theirs is ResNet-50 v2;
- left out: MOAM (rotation with VAT and entropy minimisation), the recipe for 1 % of the labels, and the average over
  four rotations of an image that is evaluated, which gives their figures half a point.

With w = 0 it is the supervised baseline on those labels, in the same views, but for BatchNorm, whose statistics are
still of both halves (the authors' baseline for 10 % of the labels has SGD at .1 N / 256 and weight decay 1e-3).
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.view import View, pixels
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Joined, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.pretext.rotation import rotations
from ssl_jax.methods.ranges import Share
from ssl_jax.methods.shared.few_labels import labelled_rows
from ssl_jax.models.heads import MLP, Classifier
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

# preprocess.py: TensorFlow's boxes with its defaults, and its resize.
INCEPTION = View(
    crop="tf",
    area=(0.05, 1.0),
    ratio=(0.75, 1.33),
    antialias=False,
    flip=0.5,
    order=("crop", "flip"),
    mean=(0.5,),
    std=(0.5,),
)


def batch_hard(z: jax.Array, labels: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Triplet loss with soft margin on each anchor's furthest positive and nearest negative, the mean over rows.

    ln(1 + exp(d_ap - d_an)) with Euclidean distances d of normalised embeddings (triplet_loss.py). The gather is
    differentiable, so that averaging over the replicas gives the gradient of the global loss.

    Args:
      z: embeddings [n, D]; normalised inside.
      labels: class [n] of each.
      axis_name: mapped axis over which positives and negatives are gathered; None for this replica's alone.

    Returns:
      loss, and the share of anchors whose furthest positive is nearer than any negative.
    """
    z = losses.l2_normalize(z)
    others, their = z, labels
    if axis_name is not None:
        others, their = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (z, labels))
    # The root's slope at zero is infinite.
    distance = jnp.sqrt(jnp.maximum(2 - 2 * losses.similarity(z, others), 1e-12))
    same = labels[:, None] == their
    furthest = jnp.max(jnp.where(same, distance, 0.0), 1)
    nearest = jnp.min(jnp.where(same, 2.0, distance), 1)  # 2 is as far as it gets
    return jax.nn.softplus(furthest - nearest).mean(), jnp.mean(furthest < nearest, dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class S4L(Method):
    """Supervised on a fraction of the labels, self-supervised on all images."""

    needs = frozenset({"labels"})

    view: View = INCEPTION  # sec. 4
    task: str = "rotation"  # or 'exemplar'
    copies: int = 1  # views of each image in a batch; exemplar has 8, sec. 4.1
    embedding: int = 1000  # width of exemplar's embedding, the authors' code
    weight: float = 1.0  # w of the self-supervised loss, eq. 1
    label_fraction: Share = 0.1  # of the training images of each class whose labels are used

    def views(self) -> dict[str, View]:
        return {f"view{i + 1}": self.view for i in range(self.copies)}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.task not in ("rotation", "exemplar"):
            raise UserError(f"config.method.task is '{self.task}': use 'rotation' or 'exemplar'.")
        if self.copies < 1 + (self.task == "exemplar"):
            raise UserError(
                f"config.method.copies is {self.copies}: set it to 1 or more, or to 2 or more for the task exemplar, "
                "whose triplets need a pair."
            )
        if not 0 < self.label_fraction <= 1:
            raise UserError(f"config.method.label_fraction is {self.label_fraction}: it is above 0 and at most 1.")

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        half = info.batch_size // 2
        if info.batch_size % 2:
            raise UserError(f"config.batch_size is {info.batch_size}: half of it are labelled images, make it even.")
        rows = {"labelled": labelled_rows(data.labels, self.label_fraction), "unlabelled": np.arange(len(data.images))}
        return Joined(rows, dict.fromkeys(rows, half))

    def _head(self) -> nn.Module:
        return Classifier(4) if self.task == "rotation" else MLP((), self.embedding, dtype=self.backbone.dtype)

    def _classifier(self, info: Info) -> Classifier:
        if not info.num_classes:
            raise UserError("The method s4l needs labels, and config.data.source has none: choose labelled data.")
        return Classifier(info.num_classes)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "classifier": self._classifier(info)}
        params, stats = initialise(parts, rng, batch["view1"])
        width = params["classifier"]["linear"]["kernel"].shape[0]
        more, none = initialise({self.task: self._head()}, jax.random.fold_in(rng, 2), jnp.zeros((1, width)))
        return params | more, {"stats": stats | none}

    def _images(self, part: Batch) -> jax.Array:
        """All views [n K, H, W, C] of one half of this replica's rows; those of an image are neighbours."""
        # So that BatchNorm groups of the global batch hold whole images.
        x = jnp.stack([part[name] for name in self.views()], 1)
        x = x.reshape(-1, *x.shape[2:])
        return rotations(x).reshape(-1, *x.shape[1:]) if self.task == "rotation" else x

    def _self_supervised(self, y: jax.Array, part: Batch) -> tuple[jax.Array, jax.Array]:
        """Loss and accuracy of the head's outputs [n K, D] for one half of the batch."""
        if self.task == "exemplar":
            images = part["index"] if "index" in part else part["position"]
            return batch_hard(y, jnp.repeat(images, len(y) // len(images)), dist.AXIS)
        turns = jnp.tile(jnp.arange(4), len(y) // 4)
        return losses.cross_entropy(y, turns), losses.accuracy(y, turns)

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step
        parts = batch["labelled"], batch["unlabelled"]
        images = [self._images(part) for part in parts]
        x, count, labels = jnp.concatenate(images), len(images[0]), batch["labelled"]["label"]
        times = count // len(labels)
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x, train=train)
        logits, stats = apply(self._classifier(info), "classifier", params, stats, h[:count], train=train)
        y, stats = apply(self._head(), self.task, params, stats, h, train=train)
        known = jnp.repeat(labels, times)
        label_loss, label_top1 = losses.cross_entropy(logits, known), losses.accuracy(logits, known)
        tasks = [self._self_supervised(own, part) for own, part in zip((y[:count], y[count:]), parts, strict=True)]
        task_loss, task_top1 = (sum(values) / len(parts) for values in zip(*tasks, strict=True))
        guess = 1 / 4 if self.task == "rotation" else 0.0  # equal distances count as wrong
        metrics = {
            "label_loss": Metric(label_loss, math.log(info.num_classes), kind="loss"),
            "label_top1": Metric(label_top1, 1 / info.num_classes),
            f"{self.task}_top1": Metric(task_top1, guess),
        }
        # The probe learns from the labels that are known.
        aux = Aux(metrics, jax.lax.stop_gradient(h[:count:times]), labels)
        return label_loss + self.weight * task_loss, ({"stats": stats}, aux)

    def predict(self, params, state, images):
        encoded, _ = self.encode(self.variables(params, state), images)
        head = Classifier(params["classifier"]["linear"]["kernel"].shape[1])
        return apply(head, "classifier", params, state["stats"], encoded.pooled, train=False)[0]

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images with their class and the network's."""
        known = batch["labelled"]
        images, labels = known["view1"][:8], np.asarray(known["label"])[:8]
        answers = np.argmax(self.predict(params, state, images), -1)
        captions = tuple((f"class {k}, network: {a}",) for k, a in zip(labels, answers, strict=True))
        shown = np.asarray(pixels(self.view, images).clip(0, 1))[:, None]
        return [Picture("Images, their class and the network's answer", ("image",), shown, captions)]

    def chance(self, info: Info) -> float:
        """Every class is as likely, and every rotation; or all distances are equal: ln 2."""
        return math.log(info.num_classes) + self.weight * math.log(4 if self.task == "rotation" else 2)

    def best(self, info: Info) -> float:
        """For triplets copies fall together and images stand at right angles."""
        return self.weight * (0.0 if self.task == "rotation" else math.log1p(math.exp(-math.sqrt(2))))
