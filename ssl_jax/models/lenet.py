"""LeNet: two large convolutions for digits, without normalisation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Backbone, Encoded, pooled
from ssl_jax.models.conv import Conv
from ssl_jax.models.pool import halved


class LeNet(Backbone):
    """Two 5x5 convolutions, each followed by a ReLU and 2x2 max-pooling, as Ganin et al. 2016 (fig. 4a) have them.

    The pooled features are the flattened map, 2,352 numbers of an image of 28 pixels, as in the authors' figure; those
    of the first layer, which nothing is built on, are the mean of its map.

    Attributes:
      width: channels of the first layer; the second has half as many again.
      bn_groups: without effect, there is no BatchNorm.
      conv_init: how convolutions start, a key of `conv.INITS`.
      dtype: type that is computed in.
    """

    width: int = 32
    bn_groups: int = 1
    conv_init: str = "torch"
    dtype: Any = jnp.float32

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return ("lenet",)

    @property
    def title(self) -> str:
        return f"LeNet of width {self.width}"

    @property
    def stages(self) -> int:
        """Number of layers whose output can be asked for."""
        return 2

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """Encodes images; arguments as of `Backbone`."""
        del train
        x = x.astype(self.dtype)
        for i in range(stage or self.stages):
            width = self.width * (2 + i) // 2
            x = nn.relu(Conv(width, 5, 1, True, self.conv_init, self.dtype, name=f"stage{i + 1}")(x))
            x = halved(x)
            x = jax.lax.stop_gradient(x) if i + 1 == frozen else x
        if stage is not None and stage < self.stages:
            return pooled(x, pool)
        flat = x.reshape(len(x), -1)
        return Encoded(flat, x) if pool is None else flat if pool else x
