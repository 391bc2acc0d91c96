"""S4L: self-supervised semi-supervised learning.

Zhai, Oliver, Kolesnikov, Beyer 2019 (arXiv 1905.03670). The cross-entropy on the labels that are known, plus w times a
self-supervised loss on all images, on one backbone (eq. 1). Follows the authors' code (google-research/s4l):
S4L-Rotation averages the cross-entropy of a labelled image over its four rotations, S4L-Exemplar over its copies.
Decisions:

- which labels are known is drawn once by the image's number, the same in every run, without regard to classes;
- a batch is drawn from all images, and labelled rows are those it happens to have, where the authors join a batch of
  labelled and one of unlabelled images: so epochs count all images, an image is labelled or not, never both, and a
  tenth of the labels weighs as a tenth of the rows, not as half of them; of micro-batches (config.accumulate) each
  takes the mean over its own labelled rows, and they weigh alike, however many those are;
- the triplets of S4L-Exemplar have an embedding of their own beside the classifier;
- the backbone is this package's ResNet ("v1.5"), where theirs is ResNet-50 v2;
- left out: MOAM (rotation with VAT and entropy minimisation), the recipe for 1 % of the labels, and the average over
  four rotations of an image that is evaluated, which gives their figures half a point.

With w = 0 it is the supervised baseline on those labels, in the same views, but for BatchNorm, whose statistics are
still of all rows (the authors' baseline for 10 % of the labels has SGD at .1 N / 256 and weight decay 1e-3).
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.combine.supervised import Classifier, known_cross_entropy
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.pretext.rotation import rotations
from ssl_jax.models.heads import MLP
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


@functools.cache
def labelled(num_examples: int, fraction: float) -> np.ndarray:
    """Which images' labels are known: a fraction of them, the same in every run.

    Args:
      num_examples: M, training images.
      fraction: of them, rounded to whole images, at least one.

    Returns:
      bool [M].
    """
    count = max(1, round(fraction * num_examples))
    # A generator whose stream NumPy keeps as it is.
    return np.random.RandomState(0).permutation(num_examples) < count


@dataclasses.dataclass(frozen=True)
class S4L(Method):
    """Supervised on a fraction of the labels, self-supervised on all images."""

    needs = frozenset({"labels"})

    view: View = INCEPTION  # sec. 4
    task: str = "rotation"  # or 'exemplar'
    copies: int = 1  # views of each image in a batch; exemplar has 8, sec. 4.1
    embedding: int = 1000  # width of exemplar's embedding, the authors' code
    weight: float = 1.0  # w of the self-supervised loss, eq. 1
    label_fraction: float = 0.1  # of the training images whose labels are used

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

    def _images(self, batch: Batch) -> jax.Array:
        """All views [n K, H, W, C] of this replica's rows; those of an image are neighbours."""
        # So that BatchNorm groups of the global batch hold whole images.
        x = jnp.stack([batch[name] for name in self.views()], 1)
        x = x.reshape(-1, *x.shape[2:])
        return rotations(x).reshape(-1, *x.shape[1:]) if self.task == "rotation" else x

    def _known(self, batch: Batch, info: Info) -> jax.Array:
        """Labels [n], -1 where they are not to be known."""
        if "index" not in batch:  # not training images: all their labels are there to measure by
            return batch["label"]
        known = jnp.asarray(labelled(info.num_examples, self.label_fraction))[batch["index"]]
        return jnp.where(known, batch["label"], -1)

    def _self_supervised(self, y: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array, float]:
        """Loss and accuracy of the head's outputs [n K, D] for images numbered [n K], and what a guess is worth."""
        if self.task == "exemplar":
            return *batch_hard(y, images, dist.AXIS), 0.0  # equal distances count as wrong
        turns = jnp.tile(jnp.arange(4), len(y) // 4)
        return losses.cross_entropy(y, turns), losses.accuracy(y, turns), 1 / 4

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        x, labels = self._images(batch), self._known(batch, info)
        times = len(x) // len(labels)
        h, stats = apply(self.backbone, "backbone", params, state["stats"], x, train=train)
        logits, stats = apply(self._classifier(info), "classifier", params, stats, h, train=train)
        y, stats = apply(self._head(), self.task, params, stats, h, train=train)
        supervised, label_top1 = known_cross_entropy(logits, jnp.repeat(labels, times))
        self_supervised, task_top1, guess = self._self_supervised(
            y, jnp.repeat(batch.get("index", batch["position"]), times)
        )
        guessed = losses.guess_accuracy(labels, batch["position"], info.num_classes, dist.AXIS)
        metrics = {
            "label_loss": Metric(supervised, kind="loss"),
            "label_top1": Metric(label_top1, guessed),
            f"{self.task}_top1": Metric(task_top1, guess),
        }
        aux = Aux(metrics, jax.lax.stop_gradient(h[::times]))
        return supervised + self.weight * self_supervised, ({"stats": stats}, aux)

    def predict(self, params, state, images):
        encoded, _ = self.encode(self.variables(params, state), images)
        head = Classifier(params["classifier"]["linear"]["kernel"].shape[1])
        return apply(head, "classifier", params, state["stats"], encoded.pooled, train=False)[0]

    def pictures(self, params: Any, state: Any, batch: Batch, *, rng: jax.Array) -> list[Picture]:
        """Images with their class and the network's."""
        images, labels = batch["view1"][:8], np.asarray(batch["label"])[:8]
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
