"""Denoising autoencoder: an image is reconstructed from a corrupted one.

Vincent, Larochelle, Bengio, Manzagol 2008; 2010 (JMLR 11). What is encoded is a corrupted image, what is to be decoded
the clean one. All else is `autoencoder`. Noise is that of sec. 3.3 of the latter, on normalised values: masking sets
them to zero, which here is the mean colour. Split-brain's baseline drops half of the input (arXiv 1611.09842, tab. 1).
The error is that of all values; to weigh those that were changed (sec. 4.1, "emphasised") is left out.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax.methods.pretext.autoencoder import Autoencoder
from ssl_jax.runtime.errors import UserError

KINDS = ("masking", "salt_and_pepper", "gaussian")


def corrupt(keys: jax.Array, images: jax.Array, kind: str, amount: float) -> jax.Array:
    """Adds noise to every image on its own.

    Args:
      keys: one key an image [B].
      images: [B, H, W, C].
      kind: 'masking' sets values to zero, 'salt_and_pepper' to the image's least or greatest, as a fair coin falls;
        'gaussian' adds noise to all of them.
      amount: share of the values; of Gaussian noise the standard deviation.

    Returns:
      [B, H, W, C].
    """
    shape = images.shape[1:]
    if kind == "gaussian":
        return images + amount * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    draw = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
    least, greatest = (f(images, axis=(1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
    noise = 0.0 if kind == "masking" else jnp.where(draw < amount / 2, least, greatest)
    return jnp.where(draw < amount, noise, images)


@dataclasses.dataclass(frozen=True)
class DenoisingAutoencoder(Autoencoder):
    """Reconstruction of the clean image from a corrupted one; the other fields are the autoencoder's."""

    noise: str = "masking"  # sec. 3.3 of 2010; or 'salt_and_pepper', 'gaussian'
    amount: float = 0.5  # nu: share of the values that change; of 'gaussian' the standard deviation

    def check(self, height: int, width: int, channels: int) -> None:
        super().check(height, width, channels)
        if self.noise not in KINDS:
            raise UserError(f"config.method.noise is '{self.noise}': use {', '.join(map(repr, KINDS))}.")
        if self.amount < 0 or (self.noise != "gaussian" and self.amount > 1):
            allowed = "at least 0, the deviation" if self.noise == "gaussian" else "0 to 1, a share of the values"
            raise UserError(f"config.method.amount is {self.amount}: for '{self.noise}' use {allowed}.")

    def corrupted(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        return corrupt(keys, images, self.noise, self.amount)
