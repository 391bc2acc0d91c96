"""A small convolutional backbone for tiny images such as 8x8 digits."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.conv import Conv
from ssl_jax.models.norm import Norm


class ConvNet(nn.Module):
    """Three 3x3 convolutions, the last two with stride 2, each followed by a norm and a ReLU.

    Attributes:
      width: channels of the first layer, doubled by each further one.
      norm: 'batch', 'group', 'layer' or 'none'.
      bn_groups: BatchNorm groups of the global batch.
      conv_init: how convolutions start, a key of `conv.INITS`.
      dtype: type that is computed in.
    """

    width: int = 32
    norm: str = "batch"
    bn_groups: int = 1
    conv_init: str = "kaiming"
    dtype: Any = jnp.float32

    @property
    def stages(self) -> int:
        """Number of layers whose output can be asked for."""
        return 3

    def stage_of(self, name: str) -> int:
        """The layer that a part of the parameters belongs to, by its name."""
        return int(name.removeprefix("stage").split("_")[0])

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0) -> jax.Array:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: use the statistics of the batch, and update the running ones.
          stage: layer (1 to 3) whose output is wanted; default the last.
          frozen: so many layers keep their running statistics, and get no gradient.

        Returns:
          globally average-pooled features [B, D].
        """
        x = x.astype(self.dtype)
        for i in range(stage or self.stages):
            stride = 1 if i == 0 else 2
            x = Conv(self.width * 2**i, 3, stride, False, self.conv_init, self.dtype, name=f"stage{i + 1}")(x)
            x = nn.relu(
                Norm(self.norm, self.bn_groups, dtype=self.dtype, name=f"stage{i + 1}_norm")(x, train and i >= frozen)
            )
            x = jax.lax.stop_gradient(x) if i + 1 == frozen else x
        return x.mean((1, 2))
