"""Split-brain autoencoder: either part of the channels predicts the other (cross-channel prediction).

Zhang, Isola, Efros 2017 (arXiv 1611.09842). A backbone is split into two halves of half the width: one sees the
lightness L of an image and predicts its colours ab, the other sees ab and predicts L; they never exchange anything,
and their concatenated features are the representation. The classification form (sec. 3.1), the better one:
313 bins of ab as in colorization, 50 bins of L of width 2, and the sum of both cross-entropies. Decisions:

- targets are the nearest bin alone, and every pixel counts alike: the prior of colorization is no part of the loss
  here, as far as the paper tells (the authors published their networks, not their training);
- every fourth pixel is a target, as in colorization;
- inputs are divided by 50, L also centred, so that they are about of size one.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist, losses
from ssl_jax.augment import lab
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.methods.pretext.colorization import CROP, annealed_mean
from ssl_jax.methods.ranges import Positive
from ssl_jax.models.decoders import Decoder
from ssl_jax.models.parts import apply, encode, initialise
from ssl_jax.models.split import Split
from ssl_jax.runtime.errors import UserError

L_BINS, L_WIDTH = 50, 2  # sec. 3.1


def lightness_bins(lightness: jax.Array) -> jax.Array:
    """Bins 0 to 49 of L in [0, 100]."""
    return jnp.clip((lightness / L_WIDTH).astype(int), 0, L_BINS - 1)


def network_input(images: jax.Array) -> jax.Array:
    """Lab images [..., 3] as the halves see them, of size about one."""
    return images / 50 - jnp.array([1.0, 0.0, 0.0])


@dataclasses.dataclass(frozen=True)
class SplitBrain(Method):
    """Cross-channel prediction in both directions."""

    view: View = CROP  # colorization's, where the paper's AlexNet sees about 227 pixels
    stride: int = 4  # from one pixel of the targets to the next, pixels
    widths: tuple[int, ...] = (128, 128, 128)  # channels of each decoder's stages: half of colorization's
    temperature: Positive = 0.38  # of the colours that are shown, as in colorization

    needs = frozenset({"colour"})
    pools_map = True

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if getattr(self.backbone, "width", 1) % 2:
            raise UserError(
                "split_brain halves the width of the backbone: set config.model.name to a ResNet or convnet and "
                "config.model.width to an even number."
            )

    def _network(self) -> Split:
        half = self.backbone.width // 2
        return Split(self.backbone.clone(width=half), self.backbone.clone(width=half))

    def _decoders(self) -> dict[str, Decoder]:
        """F1, from L to ab, and F2, from ab to L (fig. 2)."""
        b, side = self.backbone, -(-self.view.size // self.stride)
        outs = {"ab_decoder": lab.BINS, "l_decoder": L_BINS}
        return {
            name: Decoder(self.widths, side, out, bn_groups=b.bn_groups, dtype=b.dtype) for name, out in outs.items()
        }

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        params, stats = initialise({"backbone": self._network()}, rng, batch["view"])
        maps = jax.eval_shape(lambda: self._network().init_with_output(rng, batch["view"], train=False, pool=False)[0])
        for i, (name, decoder) in enumerate(self._decoders().items()):
            half = jnp.zeros((*maps.shape[:3], maps.shape[3] // 2))
            more, moving = initialise({name: decoder}, jax.random.fold_in(rng, i + 1), half)
            params, stats = params | more, stats | moving
        return params, {"stats": stats}

    def _predict(self, params, stats, images, train):
        """Lab images, the maps, logits [B, h, w, 313] and [B, h, w, 50], and the running statistics."""
        colours = lab.rgb_to_lab(pixels(self.view, images))
        x = network_input(colours)
        h, stats = apply(self._network(), "backbone", params, stats, x, train=train, pool=False)
        logits = []
        for half, (name, decoder) in zip(jnp.split(h, 2, -1), self._decoders().items(), strict=True):
            y, stats = apply(decoder, name, params, stats, half, train=train)
            logits.append(y)
        return colours, h, logits, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        colours, h, logits, stats = self._predict(params, state["stats"], batch["view"], train)
        target = colours[:, :: self.stride, :: self.stride]
        labels = {"ab": lab.nearest_bin(target[..., 1:]), "l": lightness_bins(target[..., 0])}
        terms, metrics = [], {}
        for (name, label), scores in zip(labels.items(), logits, strict=True):
            guess = losses.guess_accuracy(label, batch["position"], scores.shape[-1], dist.AXIS)
            label, scores = label.reshape(-1), scores.reshape(-1, scores.shape[-1])
            terms.append(losses.cross_entropy(scores, label))
            metrics[f"{name}_bin_accuracy"] = Metric(losses.accuracy(scores, label), guess)
        aux = Aux(metrics, jax.lax.stop_gradient(h.mean((1, 2))))
        return sum(terms), ({"stats": stats}, aux)

    def encode(self, variables, images, *, train=False, stage=None, frozen=0):
        """Both halves' outputs for all of Lab, concatenated."""
        x = network_input(lab.rgb_to_lab(pixels(self.view, images)))
        return encode(self._network(), variables, x, train=train, stage=stage, frozen=frozen)

    def pictures(self, params, state, batch, *, rng):
        truth, _, (ab, lightness), _ = self._predict(params, state["stats"], batch["view"][:8], train=False)
        ab = annealed_mean(ab, self.temperature)
        lightness = jax.nn.softmax(lightness) @ (L_WIDTH * (jnp.arange(L_BINS) + 0.5))
        guess = jnp.concatenate([lightness[..., None], ab], -1)
        guess = jax.image.resize(guess, truth.shape, "bilinear")
        grey = truth.at[..., 1:].set(0.0)
        plain = truth.at[..., 0].set(60.0)  # a lightness at which most colours show
        columns = [grey, truth.at[..., 1:].set(guess[..., 1:]), plain, truth.at[..., 0].set(guess[..., 0]), truth]
        shown = np.stack([lab.lab_to_rgb(x) for x in columns], 1)
        names = ("lightness", "its colours predicted", "colours", "their lightness predicted", "truth")
        return [Picture("Lightness and colours are predicted from each other.", names, shown)]

    def chance(self, info: Info) -> float:
        """Ln 313 + ln 50."""
        return math.log(lab.BINS) + math.log(L_BINS)
