"""Colorization: the colours of a grey image are predicted.

Zhang, Isola, Efros 2016 (arXiv 1603.08511). From the lightness L of an image its colours are predicted, as a
distribution over 313 bins of the ab plane. Follows the authors' code (richzhang/colorization, caffe branch):

- targets are every fourth pixel of ab, softly encoded by the ten nearest bins (sec. 2.1);
- rare colours weigh more (eq. 4) in the gradient alone, and images without colour (no |ab| above 5) nothing there: the
  loss that is reported is the plain cross-entropy over all pixels. It teaches to answer rare colours, so that the share
  of pixels whose bin is found (of which plain grey gets the most) is reported with these weights as well;
- the prior is estimated while training, as the mean of all soft targets so far, this batch's included, where the
  authors have a file that was counted over ImageNet beforehand: so it is that of the data at hand;
- the shared backbone and a decoder stand for their dilated VGG; L - 50 is divided by 50, which their first
  convolution's initialisation does not need.

Features see the lightness of an image.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import dist
from ssl_jax.augment import lab
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.ranges import Positive
from ssl_jax.models.decoders import Decoder
from ssl_jax.models.parts import apply, initialise

# Values in [0, 1]: they are converted to Lab.
CROP = View(size=176, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), mean=(0.0,), std=(1.0,))


def lightness(images: jax.Array) -> jax.Array:
    """The network's input [..., 1], about -1 to 1, of Lab images [..., 3]."""
    return images[..., :1] / 50 - 1


def distribution(bins: jax.Array, weights: jax.Array) -> jax.Array:
    """Soft targets [..., 313] from the bins [..., k] that they have and their weights [..., k].

    By comparison: k numbers of a pixel by index, and their gradients, are 40 times the traffic on a TPU.
    """
    return jnp.sum(weights[..., None] * jax.nn.one_hot(bins, lab.BINS), -2)


def rebalancing(prior: jax.Array, mix: float = 0.5) -> jax.Array:
    """Weights of the bins (eq. 4): one over the prior mixed with a uniform distribution, one on average.

    Args:
      prior: p~ [Q], sums to one.
      mix: lambda, share of the uniform distribution over bins that occur.

    Returns:
      w [Q] with sum(prior * w) = 1; zero for bins that do not occur. All ones for a prior of zeros.
    """
    prior = jnp.where(prior.sum() > 0, prior, 1 / prior.size)
    occurs = prior > 0
    smooth = (1 - mix) * prior + mix / occurs.sum()
    w = jnp.where(occurs, 1 / smooth, 0.0)
    return w / jnp.sum(prior * w)


def reweighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of losses [B, h, w], with the gradient of the mean of `weights` times them."""
    weighted = jnp.mean(jax.lax.stop_gradient(weights) * losses)
    return weighted + jax.lax.stop_gradient(losses.mean() - weighted)


def annealed_mean(logits: jax.Array, temperature: float = 0.38) -> jax.Array:
    """The colour [..., 2] that logits [..., 313] stand for: mean of a sharpened distribution (eq. 5)."""
    return jax.nn.softmax(logits / temperature) @ jnp.asarray(lab.ab_centres(), logits.dtype)


@dataclasses.dataclass(frozen=True)
class Colorization(Method):
    """Prediction of colours from lightness."""

    view: View = CROP  # 176 of 256 pixels (authors' prototxt)
    stride: int = 4  # from one pixel of the target to the next, pixels
    widths: tuple[int, ...] = (256, 256, 256)  # channels of the decoder's stages; the authors' conv8 has 256
    mix: float = 0.5  # lambda, sec. 2.2
    temperature: Positive = 0.38  # T of the colours that are shown, sec. 2.3

    needs = frozenset({"colour"})
    pools_map = True

    def _decoder(self) -> Decoder:
        b = self.backbone
        side = -(-self.view.size // self.stride)
        return Decoder(self.widths, side, lab.BINS, bn_groups=b.bn_groups, dtype=b.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "decoder": self._decoder()}
        params, stats = initialise(parts, rng, batch["view"][..., :1], pool=False)
        return params, {"stats": stats, "prior": jnp.zeros(lab.BINS), "batches": jnp.zeros(())}

    def _predict(self, params, stats, images, train):
        """Lab images, the map, logits [B, h, w, 313] and the running statistics."""
        colours = lab.rgb_to_lab(pixels(self.view, images))
        h, stats = apply(self.backbone, "backbone", params, stats, lightness(colours), train=train, pool=False)
        logits, stats = apply(self._decoder(), "decoder", params, stats, h, train=train)
        return colours, h, logits, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        colours, h, logits, stats = self._predict(params, state["stats"], batch["view"], train)
        ab = colours[:, :: self.stride, :: self.stride, 1:]
        target, nearest = distribution(*lab.soft_encode(ab)), lab.nearest_bin(ab)
        prior, batches = state["prior"], state["batches"]
        shares = dist.mean(target.mean((0, 1, 2)))
        if train:
            batches += 1
            prior += (shares - prior) / batches
        # An untrained network has counted nothing: it is measured with what this batch has.
        known = jnp.where(batches > 0, prior, shares)
        coloured = jnp.abs(ab).max((1, 2, 3)) > 5  # of the pixels that are targets, as theirs
        balance = rebalancing(known, self.mix)
        factor = jnp.sum(balance * jax.nn.one_hot(nearest, lab.BINS), -1) * coloured[:, None, None]
        loss = reweighted(optax.softmax_cross_entropy(logits, target), factor)  # eq. 2, for each pixel
        answer, metrics = logits.argmax(-1), {}
        # By chance the answer is the bin that so far most of the weight was in.
        measures = {
            "ab_bin_accuracy": (jnp.ones_like(factor), known),
            "ab_bin_accuracy_rebalanced": (factor, known * balance),
        }
        for name, (weight, mass) in measures.items():
            weight /= jnp.maximum(dist.mean(weight.mean()), 1e-9)
            chance = jnp.mean(weight * (mass.argmax() == nearest))
            metrics[name] = Metric(jnp.mean(weight * (answer == nearest)), chance)
        aux = Aux(metrics, jax.lax.stop_gradient(h.mean((1, 2))))
        return loss, ({"stats": stats, "prior": prior, "batches": batches}, aux)

    def encode(self, variables, images, **options):
        return super().encode(variables, lightness(lab.rgb_to_lab(pixels(self.view, images))), **options)

    def pictures(self, params, state, batch, *, rng):
        colours, _, logits, _ = self._predict(params, state["stats"], batch["view"][:8], train=False)
        ab = annealed_mean(logits, self.temperature)
        ab = jax.image.resize(ab, (*colours.shape[:3], 2), "bilinear")
        columns = [colours.at[..., 1:].set(0.0), jnp.concatenate([colours[..., :1], ab], -1), colours]
        shown = np.stack([lab.lab_to_rgb(x) for x in columns], 1)
        return [Picture("Colours are predicted from lightness.", ("lightness", "predicted", "truth"), shown)]

    def chance(self, info: Info) -> float:
        """Ln 313."""
        return math.log(lab.BINS)

    def best(self, info: Info) -> float:
        """The entropy of the target of a colour at a bin's centre: the least, but for bins at the rim of the gamut."""
        squared = np.array([0, *[1] * 4, *[2] * 4, 4]) * lab.GRID**2
        p = np.exp(-squared / (2 * lab.SIGMA**2))
        p /= p.sum()
        return float(-np.sum(p * np.log(p)))
