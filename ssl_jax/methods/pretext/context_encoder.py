"""Context encoder: what is missing of an image is painted in (inpainting).

Pathak, Krahenbuhl, Donahue, Darrell, Efros 2016 (arXiv 1604.07379). A region of the image is filled with a constant
colour and predicted from what is around, with a squared error and against a discriminator. Follows the authors' code
(pathak22/context-encoder, train.lua as its README calls it):

- the centre is predicted a few pixels further than it is hidden, and weighs ten times as much on that ring, in the loss
  that is reported as well (theirs reports it unweighted); the random regions of train_random.lua are one quarter
  of the area, cut out of enlarged noise, without a ring. There the error is that of hidden pixels (eq. 1 of the paper)
  and the discriminator sees the image with them filled in; the code takes both of the whole output;
- the fill is the authors', whose red and green are exchanged against ImageNet's mean;
- backbone and decoder are connected by the channel-wise fully-connected layer of sec. 3.1, which the paper's network
  for features has, where train.lua has a bottleneck of 4000 units;
- the paper's features come from squared error alone on random regions, which is `region='random'` with `adversarial=0`;
  with a discriminator, train_random.lua has `judge=(64, 64, 128, 256, 512)` and `widths` of five stages;
- the discriminator's first and last convolution and the last of the decoder learn a bias, which the authors' code sets
  to zero before each evaluation;
- generator and discriminator move at once: the loss is one scalar, the discriminator's, which the prediction gets no
  gradient of, plus the generator's, which the discriminator's weights get none of. The authors move the discriminator
  first, and then take the generator's gradient from the answers it gave before.

Features see the whole image; they are the mean of the map.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.holes import centre_hole, centre_weights, random_regions
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import OrZero
from ssl_jax.models.decoders import ChannelwiseDense, Decoder
from ssl_jax.models.discriminator import Discriminator
from ssl_jax.models.parts import apply, initialise
from ssl_jax.runtime.errors import UserError

CROP = View(size=128, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), mean=(0.5,), std=(0.5,))


def weighted_error(prediction: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
    """Squared difference of [B, h, w, C] times weights that broadcast, the mean over all values (eq. 1)."""
    return jnp.mean(weights * jnp.square(prediction - target))


def discriminator_loss(real: jax.Array, made: jax.Array) -> jax.Array:
    """Cross-entropy of logits [n] of real images with 1 plus that of made ones with 0 (eq. 2)."""
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(made).mean()


def generator_loss(made: jax.Array) -> jax.Array:
    """Cross-entropy of logits [n] of made images with 1."""
    return jax.nn.softplus(-made).mean()


@dataclasses.dataclass(frozen=True)
class ContextEncoder(Method):
    """Inpainting of the centre or of random regions."""

    view: View = CROP  # 128 of 350 pixels
    region: str = "centre"  # or 'random', sec. 3.3
    area: float = 0.25  # share of the image that 'random' hides
    overlap: OrZero = 4  # pixels of the predicted centre, on each side, that are not hidden
    overlap_weight: float = 10.0  # of their error
    fill: tuple[float, ...] = (117 / 255, 104 / 255, 123 / 255)  # colour of what is hidden, 0 to 1
    adversarial: float = 0.001  # lambda_adv; the squared error has the rest (eq. 3)
    widths: tuple[int, ...] = (256, 128, 64, 32)  # channels of the decoder's stages
    judge: tuple[int, ...] = (64, 128, 256, 512)  # channels of the discriminator's layers

    pools_map = True

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.region not in ("centre", "random"):
            raise UserError(f"config.method.region is '{self.region}': use 'centre' or 'random'.")
        if self.view.size % 4 or not 0 <= self.overlap < self.view.size // 4:
            raise UserError(
                f"config.method.view.size is {self.view.size} and config.method.overlap {self.overlap}: the size must "
                "be a multiple of 4, and the overlap less than a quarter of it."
            )
        if len(self.fill) not in (1, channels):
            raise UserError(
                f"config.method.fill has {len(self.fill)} values, but the images {channels} channel(s): give one "
                "value, or one a channel."
            )
        if self.region == "random" and not 0 < self.area < 1:
            raise UserError(f"config.method.area is {self.area}: the share that is hidden lies between 0 and 1.")
        if self._side() < 2 ** len(self.judge):
            raise UserError(
                f"config.method.judge has {len(self.judge)} layers, too many for a region of {self._side()} pixels, "
                "which each of them halves: give fewer."
            )

    def _side(self) -> int:
        """Of what is predicted, pixels."""
        return self.view.size // 2 if self.region == "centre" else self.view.size

    def _region(self, images: jax.Array) -> jax.Array:
        """What is predicted of [B, S, S, C]."""
        start = (self.view.size - self._side()) // 2
        return images[:, start : start + self._side(), start : start + self._side()]

    def _parts(self, batch: Batch) -> dict[str, nn.Module]:
        channels, b = batch["view"].shape[-1], self.backbone
        decoder = Decoder(self.widths, self._side(), channels, "dcgan", b.bn_groups, b.dtype)
        return {"backbone": b, "bottleneck": ChannelwiseDense(b.dtype), "decoder": decoder}

    def _judge(self) -> Discriminator:
        return Discriminator(self.judge, self.backbone.bn_groups, self.backbone.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        keys = jax.random.split(rng)
        params, stats = initialise(self._parts(batch), keys[0], batch["view"], pool=False)
        more, moving = initialise({"discriminator": self._judge()}, keys[1], self._region(batch["view"]))
        return params | more, {"stats": stats | moving}

    def groups(self, params: Any) -> Any:
        labels = super().groups(params)
        return labels | {"discriminator": jax.tree.map(lambda _: "discriminator", params["discriminator"])}

    def _inpaint(self, params, stats, batch, rng, train):
        """Holes [B, S, S, 1], the input, its map, the prediction in [-1, 1] and the running statistics."""
        x = batch["view"]
        if self.region == "random":
            holes = random_regions(dist.example_keys(rng, batch["position"]), self.view.size, self.area)
        else:
            holes = jnp.broadcast_to(centre_hole(self.view.size, self.overlap), (*x.shape[:3], 1))
        fill = (jnp.array(self.fill) - jnp.array(self.view.mean)) / jnp.array(self.view.std)
        x = jnp.where(holes, fill, x)
        parts = self._parts(batch)
        h, stats = apply(parts["backbone"], "backbone", params, stats, x, train=train, pool=False)
        y, stats = apply(parts["bottleneck"], "bottleneck", params, stats, h, train=train)
        y, stats = apply(parts["decoder"], "decoder", params, stats, y, train=train)
        return holes, x, h, jnp.tanh(y), stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        holes, _, h, y, stats = self._inpaint(params, state["stats"], batch, rng, train)
        target = self._region(2 * pixels(self.view, batch["view"]) - 1)
        hidden = self._region(holes) / self._region(holes).mean()
        if self.region == "centre":
            made, weights = y, jnp.asarray(centre_weights(self.view.size, self.overlap, self.overlap_weight))
        else:
            made, weights = jnp.where(holes, y, target), hidden

        def judged(images, params, stats):
            return apply(self._judge(), "discriminator", params, stats, images, train=train)

        real, stats = judged(target, params, stats)
        fake, stats = judged(jax.lax.stop_gradient(made), params, stats)
        fooled, _ = judged(made, jax.lax.stop_gradient(params), stats)
        against = discriminator_loss(real, fake)
        error = weighted_error(y, target, weights)
        loss = against + self.adversarial * generator_loss(fooled) + (1 - self.adversarial) * error
        left = weighted_error(2 * jnp.array(self.fill) - 1, target, hidden)  # the hole as it was filled
        metrics = {
            "hole_mse": Metric(weighted_error(y, target, hidden), left, "loss"),
            "discriminator_loss": Metric(against, kind="loss"),
        }
        return loss, ({"stats": stats}, Aux(metrics, jax.lax.stop_gradient(h.mean((1, 2)))))

    def pictures(self, params, state, batch, *, rng):
        batch = {name: x[:8] for name, x in batch.items()}
        holes, x, _, y, _ = self._inpaint(params, state["stats"], batch, rng, train=False)
        start = (self.view.size - self._side()) // 2
        y = jnp.pad((y + 1) / 2, ((0, 0), (start, start), (start, start), (0, 0)))
        truth = pixels(self.view, batch["view"])
        columns = (pixels(self.view, x), jnp.where(holes, y, truth), truth)
        shown = np.stack([np.clip(x, 0, 1) for x in columns], 1)
        return [Picture("A hidden region is inpainted.", ("input", "inpainted", "truth"), shown)]

    def best(self, info: Info) -> float:
        """A perfect prediction, on which the discriminator is at chance."""
        return (2 + self.adversarial) * math.log(2)

    def chance(self, info: Info) -> float:
        """The discriminator is at chance, and the mean colour is predicted: pixels in [-1, 1] vary by about 1/4."""
        centre = centre_weights(self.view.size, self.overlap, self.overlap_weight)
        weight = centre.mean() if self.region == "centre" else 1.0
        return self.best(info) + (1 - self.adversarial) * float(weight) / 4
