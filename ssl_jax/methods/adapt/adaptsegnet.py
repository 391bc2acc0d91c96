"""AdaptSegNet: segmentation adapts to a second domain by adversaries on its answers, at two levels.

Tsai et al. 2018 (arXiv 1802.10349). Masks of the source are learnt from the last map of the backbone and, with a tenth
of the weight, from the one before. At each level a discriminator tells the softmax maps of the two domains apart, and
the network is moved so that maps of the target pass for the source's. Follows the authors' code, wasidennis/AdaptSegNet
`train_gta2cityscapes_multi.py` and `model/discriminator.py`. Decisions:

- source and target go through the network one after the other, as theirs, so that BatchNorm has the statistics of one
  domain at a time; they freeze its scales and offsets, which here learn;
- network and discriminators move at once: what the discriminators are given has no gradient, and where they move the
  network, their weights get none. The authors move the discriminators second, on the same maps;
- `pseudo` adds a cross-entropy of the target's pixels with the network's own answers where they are sure, the step from
  adversaries to self-training of later papers; the authors' has none;
- masks of the target are never read: they are there to measure by.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssl_jax.augment.targets import Field
from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers import Joined, Sampler
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric
from ssl_jax.methods.shared.two_domains import domain_rows
from ssl_jax.metrics.segmentation import IGNORE, cross_entropy, upsampled
from ssl_jax.models.conv import Conv
from ssl_jax.models.dense_heads import ASPP
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

SOURCE, TARGET = 0.0, 1.0  # what discriminators are to say
LEVELS = ("main", "aux")
CROP = View(size=160, crop="shift", pad=0, flip=0.5, order=("crop", "flip"))


class Judge(nn.Module):
    """The fully convolutional discriminator of softmax maps: 4x4 convolutions of stride 2, leaky ReLUs, no norm.

    Attributes:
      widths: channels of the hidden convolutions.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, H, W, C] -> logits [B, h, w]
        del train
        for i, width in enumerate((*self.widths, 1)):
            x = Conv(width, 4, 2, True, "torch", name=f"conv{i + 1}")(x)
            x = nn.leaky_relu(x, 0.2) if i < len(self.widths) else x
        return x[..., 0]


def judged_loss(logits: jax.Array, domain: float) -> jax.Array:
    """Binary cross-entropy of discriminators' logits, mean over all places."""
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, domain)).mean()


def pseudo_loss(logits: jax.Array, threshold: float) -> jax.Array:
    """Cross-entropy of pixels [B, H, W, C] with their own likeliest class, where that has more than the threshold."""
    sure = jax.lax.stop_gradient(jax.nn.softmax(logits))
    labels = jnp.where(sure.max(-1) > threshold, sure.argmax(-1), IGNORE)
    return cross_entropy(logits, labels)


@dataclasses.dataclass(frozen=True)
class AdaptSegNet(Method):
    """Segmentation with adversaries on its answers."""

    needs = frozenset({"masks", "domains"})

    view: View = CROP  # of both domains
    classes: int = 11  # of the masks
    dilations: tuple[int, ...] = (6, 12, 18, 24)  # of the classifiers' kernels, summed (DeepLab-v2)
    aux_weight: float = 0.1  # lambda_seg of the level before the last
    adversarial: float = 0.001  # lambda_adv of the last level
    aux_adversarial: float = 0.0002  # of the level before
    judge: tuple[int, ...] = (64, 128, 256, 512)  # channels of the discriminators
    pseudo: float = 0.0  # weight of the target's own sure answers; the authors': 0
    threshold: float = 0.9  # of an answer that is sure

    pools_map = True

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.classes < 2:
            raise UserError(f"config.method.classes is {self.classes}: masks have at least two.")
        if self.view.size < 2 ** (len(self.judge) + 1):
            raise UserError(
                f"config.method.judge has {len(self.judge)} layers, too many for views of {self.view.size} pixels, "
                "which each of them halves: give fewer."
            )

    def targets(self) -> dict[str, Field]:
        return {"seen": Field("mask", like="view")}

    def sampler(self, data: Dataset, info: Info) -> Sampler:
        if info.batch_size % 2:
            raise UserError(
                f"config.batch_size is {info.batch_size}: half of it are images of each domain, make it even."
            )
        half = info.batch_size // 2
        return Joined(domain_rows(data, "adaptsegnet"), {"source": half, "target": half})

    def _modules(self) -> dict[str, nn.Module]:
        return {f"classifier_{level}": ASPP(self.classes, self.dilations) for level in LEVELS} | {
            f"judge_{level}": Judge(self.judge) for level in LEVELS
        }

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        x, keys = batch["view"], jax.random.split(rng, 5)
        params, stats = initialise({"backbone": self.backbone}, keys[0], x)
        answers = jnp.zeros((*x.shape[:3], self.classes))
        for key, (name, module) in zip(keys[1:], self._modules().items(), strict=True):
            level = name.partition("_")[2]
            given = answers if name.startswith("judge") else self._map(params, stats, x, level, False)[0]
            params[name] = module.init(key, given, train=True)["params"]
        return params, {"stats": stats}

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        for name in params:
            if name != "backbone":
                group = "discriminator" if name.startswith("judge") else "classifier"
                labels[name] = jax.tree.map(lambda _, group=group: group, params[name])
        return labels

    def _map(self, params: Any, stats: Any, x: jax.Array, level: str, train: bool) -> tuple[jax.Array, Any]:
        """The backbone's map at a level, and the statistics moved on."""
        stage = self.backbone.stages - (level == "aux")
        return apply(self.backbone, "backbone", params, stats, x, train=train, stage=stage, pool=False)

    def _answers(self, params: Any, stats: Any, x: jax.Array, train: bool) -> tuple[dict[str, jax.Array], Any, Any]:
        """Logits [B, H, W, classes] by level, the last map, and the statistics after one more batch."""
        modules, found = self._modules(), {}
        last, moved = self._map(params, stats, x, "main", train)
        maps = {"main": last, "aux": self._map(params, stats, x, "aux", train)[0]}
        for level, h in maps.items():
            name = f"classifier_{level}"
            logits, _ = apply(modules[name], name, params, stats, h, train=train)
            found[level] = upsampled(logits, (x.shape[1], x.shape[2]))
        return found, last, moved

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        del rng, step, info
        source, target = batch["source"], batch["target"]
        masks = jnp.where(source["seen"] < 0, IGNORE, source["seen"])
        masks = jnp.where(masks < self.classes, masks, IGNORE)
        ours, last, stats = self._answers(params, state["stats"], source["view"], train)
        theirs, _, stats = self._answers(params, stats, target["view"], train)
        modules, still = self._modules(), jax.lax.stop_gradient(params)

        def judged(level: str, params: Any, logits: jax.Array) -> jax.Array:
            return apply(modules[f"judge_{level}"], f"judge_{level}", params, {}, jax.nn.softmax(logits), train=train)[
                0
            ]

        weights = {"main": self.adversarial, "aux": self.aux_adversarial}
        entropy = {level: cross_entropy(ours[level], masks) for level in LEVELS}
        segmentation = entropy["main"] + self.aux_weight * entropy["aux"]
        fooling = sum(weights[level] * judged_loss(judged(level, still, theirs[level]), SOURCE) for level in LEVELS)
        against = sum(
            (
                judged_loss(judged(level, params, jax.lax.stop_gradient(ours[level])), SOURCE)
                + judged_loss(judged(level, params, jax.lax.stop_gradient(theirs[level])), TARGET)
            )
            / 2
            for level in LEVELS
        )
        loss = segmentation + fooling + against
        if self.pseudo:
            loss += self.pseudo * pseudo_loss(theirs["main"], self.threshold)
        known = masks != IGNORE
        right = jnp.sum((ours["main"].argmax(-1) == masks) & known) / jnp.maximum(known.sum(), 1)
        metrics = {
            "segmentation_loss": Metric(entropy["main"], math.log(self.classes), "loss"),
            "pixel_accuracy": Metric(right, kind="value"),
            "discriminator_loss": Metric(against / 2, math.log(2), "loss"),
        }
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(last.mean((1, 2))), source["label"]))

    def segment(self, params: Any, state: Any, images: jax.Array) -> jax.Array:
        """Logits [B, H, W, classes] of normalised images of either domain."""
        return self._answers(params, state["stats"], images, False)[0]["main"]

    def chance(self, info: Info) -> float:
        """Every class is as likely, and each domain."""
        return (1 + self.aux_weight) * math.log(self.classes) + self.best(info)

    def best(self, info: Info) -> float:
        """Masks are known, and domains are not."""
        del info
        return (len(LEVELS) + self.adversarial + self.aux_adversarial) * math.log(2)
