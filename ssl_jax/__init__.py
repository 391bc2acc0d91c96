"""Self-supervised learning of image representations in JAX and Flax."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl_jax.weights import Backbone

__version__ = "0.1.0"


def load_backbone(path: str) -> "Backbone":
    """A pretrained backbone as a function: `load_backbone("runs/a")(images)` are the features [N, D] of images.

    Args:
      path: workdir of a run, or a file that `ssl_jax.export` wrote.

    Raises:
      UserError: if there is no backbone at `path`.
    """
    from ssl_jax import weights  # here, so that `import ssl_jax` alone stays light

    return weights.load(path)
