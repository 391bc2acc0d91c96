"""Self-supervised learning of image representations in JAX and Flax."""

__version__ = "0.1.0"
