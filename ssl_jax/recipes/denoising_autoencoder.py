"""Denoising autoencoder: the autoencoder's settings, with the noise of the method's class."""

from ssl_jax.recipes import autoencoder

for_card = autoencoder.for_card
UNPUBLISHED = autoencoder.UNPUBLISHED
