"""Exemplar-CNN: every image is a class of its own, and its augmentations are the members.

Dosovitskiy, Springenberg, Riedmiller, Brox 2014 (arXiv 1406.6909). Every image is a surrogate class of its own, whose
members are transformed copies of it. Transformations are those of the authors' code (make_data/, in the
ethanhe42/Exemplar-CNN mirror), whose ranges differ a little from the paper's. What differs from the authors:

- seeds are whole images, where they cut 32-pixel patches out of larger ones by the energy of their gradient, so that
  what a copy moves in from outside is black, not more of the image;
- copies are drawn anew in each epoch, not 150 once and for all;
- colour components are those of ImageNet for all data, where theirs are of the patches they train on;
- the network is any backbone, followed by their last hidden layer (512, dropout 0.5) and the classifier, which has a
  bias as Caffe's; evaluation sees the backbone;
- the stretch of every copy to [0, 1] before its colours change is left out: no parameter would make it the identity.

With `triplet` above 0 it is the modern form, for data of too many images for a softmax: several copies of each image
in a batch, an embedding of that width, and semi-hard triplets over the global batch (Kolesnikov, Zhai, Beyer 2019,
arXiv 1901.09005; google/revisiting-self-supervised, exemplar.py). What differs there:

- every embedding has length 1, where their code gives that length to each dimension over the batch (axis 0), so that
  the margin would mean another thing with every batch size and width;
- a copy is grey on its own, theirs are if the image is, and copies are normalised alike, theirs each by itself.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, losses
from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.ranges import BelowOne
from ssl_jax.models.heads import MLP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

# augment_patches_distr.m: scale and position, then the data set's colour components, then HSV.
TRANSFORMATIONS = View(
    size=32,
    crop="centre",
    affine=1.0,
    degrees=20.0,
    translate=0.25,
    scale=(0.5**0.5, 2**0.5),
    pca=1.0,
    hsv=1.0,
    order=("affine", "crop", "pca", "hsv"),
)
# Inception's crops and colours after grey (config/exemplar/imagenet.sh); its order of the colour ops is any of four.
# Here grey is the luma, theirs the mean of the channels; here crops are resized one way, there in any of TensorFlow's
# four.
INCEPTION = View(
    crop="tf",
    area=(0.05, 1.0),
    ratio=(0.75, 1.33),
    flip=0.5,
    gray=0.66,
    jitter=1.0,
    brightness=32 / 255,
    contrast=0.5,
    saturation=0.5,
    hue=0.2,
    additive_brightness=True,
    channel_contrast=True,
    hsv_saturation=True,
    order=("crop", "flip", "gray", "jitter"),
)


def semi_hard(
    z: jax.Array, labels: jax.Array, margin: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Semi-hard triplet loss (FaceNet, arXiv 1503.03832, sec. 3.2), the mean over all pairs of anchor and positive.

    max(0, d_ap - d_an + margin) with squared Euclidean distances d of normalised embeddings. The negative is the
    nearest one further away than the positive, or where there is none the furthest, as TensorFlow's
    `triplet_semihard_loss` has it. The gather is differentiable, so that averaging over the replicas gives the gradient
    of the global loss where all images have as many copies.

    Args:
      z: embeddings [n, D]; normalised inside.
      labels: class [n] of each.
      margin: by how much negatives shall be further away than positives, in squared distance (0 to 4).
      axis_name: mapped axis over which positives and negatives are gathered; None for this replica's alone.

    Returns:
      loss, and the share of anchors whose furthest positive is nearer than any negative.
    """
    z = losses.l2_normalize(z)
    others, their, rows = z, labels, jnp.arange(len(z))
    if axis_name is not None:
        others, their = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (z, labels))
        rows = rows + jax.lax.axis_index(axis_name) * len(z)
    distance = 2 - 2 * losses.similarity(z, others)
    same = labels[:, None] == their
    pairs = same & (rows[:, None] != jnp.arange(len(their)))
    negatives = jnp.sort(jnp.where(same, jnp.inf, distance), 1)
    place = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(*jax.lax.stop_gradient((negatives, distance)))
    furthest = jnp.sum(~same, 1, keepdims=True) - 1
    negative = jnp.take_along_axis(negatives, jnp.minimum(place, furthest), 1)
    loss = jnp.sum(jnp.where(pairs, jax.nn.relu(distance - negative + margin), 0.0)) / jnp.sum(pairs)
    right = jnp.max(jnp.where(pairs, distance, 0.0), 1) < negatives[:, 0]
    return loss, jnp.mean(right, dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Exemplar(Method):
    """Exemplar-CNN, with the paper's softmax or with triplets."""

    needs = frozenset({"index"})

    view: View = TRANSFORMATIONS  # sec. 2.1 and augment_patches_distr.m
    copies: int = 1  # of each image in a batch; triplets want more
    hidden: int = 512  # width of the layer between backbone and classifier, sec. 3.1
    dropout: BelowOne = 0.5  # of that layer, sec. 3.1
    triplet: int = 0  # width of the embedding for triplets; 0: softmax over all images
    margin: float = 0.5  # of the triplets, in squared distance (config/exemplar/imagenet.sh)

    def views(self) -> dict[str, View]:
        return {f"view{i + 1}": self.view for i in range(self.copies)}

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.copies < 1 + bool(self.triplet):
            raise UserError(
                f"config.method.copies is {self.copies}: set it to 1 or more, or to 2 or more for triplets "
                "(config.method.triplet above 0), each of which needs a pair."
            )

    def _parts(self, info: Info) -> dict[str, nn.Module]:
        dtype = self.backbone.dtype
        if self.triplet:
            return {"backbone": self.backbone, "embedding": MLP((), self.triplet, dtype=dtype)}
        classifier = MLP((), info.num_examples, dtype=dtype)
        return {"backbone": self.backbone, "hidden": MLP((), self.hidden, dtype=dtype), "classifier": classifier}

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise(self._parts(info), rng, batch["view1"])
        return params, {"stats": stats}

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        parts, stats = self._parts(info), state["stats"]
        # Copies of an image are neighbours, so that BatchNorm groups of the global batch hold whole images.
        x = jnp.stack([batch[name] for name in self.views()], 1)
        labels = jnp.repeat(batch["index"], self.copies)
        h, stats = apply(self.backbone, "backbone", params, stats, x.reshape(-1, *x.shape[2:]), train=train)
        if self.triplet:
            z, stats = apply(parts["embedding"], "embedding", params, stats, h, train=train)
            loss, top1 = semi_hard(z, labels, self.margin, dist.AXIS)
        else:
            y, stats = apply(parts["hidden"], "hidden", params, stats, h, train=train)
            y = jax.nn.relu(y)
            if train:
                keys = dist.example_keys(rng, batch["position"])
                kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.dropout, (self.copies, self.hidden)))
                y = jnp.where(kept(keys).reshape(y.shape), y / (1 - self.dropout), 0.0)
            logits, stats = apply(parts["classifier"], "classifier", params, stats, y, train=train)
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            loss, top1 = losses.cross_entropy(logits, labels), losses.accuracy(logits, labels)
        chance = 0.0 if self.triplet else 1 / info.num_examples  # equal distances are in no order
        metrics = {"exemplar_top1": Metric(top1, chance)}
        aux = Aux(metrics, jax.lax.stop_gradient(h[:: self.copies]))
        return loss, ({"stats": stats}, aux)

    def chance(self, info: Info) -> float:
        """Ln n for the softmax; for triplets all distances are equal: the margin."""
        return self.margin if self.triplet else math.log(info.num_examples)
