"""Image data (the input pipeline): from the name of a source to uint8 images, their labels and further fields."""

from ssl_jax.data.dataset import Card, Dataset, DoesNotFit, Request
from ssl_jax.data.loading import card, load, splits, streams

__all__ = ["Card", "Dataset", "DoesNotFit", "Request", "card", "load", "splits", "streams"]
