"""Image data: a source's name gives random access to uint8 images, their labels and what else is known of them."""

from ssl_jax.data.dataset import Card, Dataset, DoesNotFit, Request
from ssl_jax.data.loading import card, load, splits, streams

__all__ = ["Card", "Dataset", "DoesNotFit", "Request", "card", "load", "splits", "streams"]
