"""Autoencoder: an image is encoded and decoded again.

Rumelhart, Hinton, Williams 1986; as a baseline for image features in Zhang, Isola, Efros 2017 (arXiv 1611.09842,
tab. 1), where its features are hardly better than random ones in deep layers. No recipe of theirs is known: the
decoder, without connections past the backbone's last map, and the mean squared error are common practice, in place
of sigmoids and cross-entropy. Features are the mean of that map.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View, pixels
from ssl_jax.methods.contract import Aux, Batch, Info, Method, Metric, Picture
from ssl_jax.models.decoders import Decoder
from ssl_jax.models.parts import apply, initialise

CROP = View(area=(0.2, 1.0), flip=0.5, order=("crop", "flip"))


def squared_error(prediction: jax.Array | float, target: jax.Array) -> jax.Array:
    """Mean squared difference over all values of [B, H, W, C], in the units of the normalised pixels."""
    return jnp.mean(jnp.square(prediction - target))


@dataclasses.dataclass(frozen=True)
class Autoencoder(Method):
    """Reconstruction of the normalised image."""

    view: View = CROP
    widths: tuple[int, ...] = (256, 128, 64, 32, 32)  # channels of the decoder's stages

    pools_map = True

    def _decoder(self, batch: Batch) -> Decoder:
        channels, b = batch["view"].shape[-1], self.backbone
        return Decoder(self.widths, self.view.size, channels, bn_groups=b.bn_groups, dtype=b.dtype)

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        parts = {"backbone": self.backbone, "decoder": self._decoder(batch)}
        params, stats = initialise(parts, rng, batch["view"], pool=False)
        return params, {"stats": stats}

    def corrupted(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """What the backbone sees of normalised images [B, H, W, C]: here, the images; keys are one an image [B]."""
        del keys
        return images

    def _reconstruct(self, params, stats, batch, rng, train):
        """The input, its map, the reconstruction and the running statistics."""
        x = self.corrupted(dist.example_keys(rng, batch["position"]), batch["view"])
        h, stats = apply(self.backbone, "backbone", params, stats, x, train=train, pool=False)
        y, stats = apply(self._decoder(batch), "decoder", params, stats, h, train=train)
        return x, h, y, stats

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        _, h, y, stats = self._reconstruct(params, state["stats"], batch, rng, train)
        loss = squared_error(y, batch["view"])
        # By chance the answer is the data set's mean colour, which is zero.
        metrics = {"reconstruction_mse": Metric(loss, squared_error(0.0, batch["view"]), "loss")}
        aux = Aux(metrics, jax.lax.stop_gradient(h.mean((1, 2))))
        return loss, ({"stats": stats}, aux)

    def pictures(self, params, state, batch, *, rng):
        batch = {name: x[:8] for name, x in batch.items()}
        x, _, y, _ = self._reconstruct(params, state["stats"], batch, rng, train=False)
        shown = [np.clip(pixels(self.view, images), 0, 1) for images in (x, y, batch["view"])]
        return [Picture("Images are rebuilt from the feature map.", ("input", "rebuilt", "truth"), np.stack(shown, 1))]

    def chance(self, info: Info) -> float:
        """Normalised pixels vary by about one about the mean colour."""
        return 1.0
