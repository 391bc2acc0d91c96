"""What tells real images from made ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.conv import INITS, Conv
from ssl_jax.models.norm import BatchNorm


class Discriminator(nn.Module):
    """DCGAN's: 4x4 convolutions of stride 2 with leaky ReLUs, BatchNorm in all but the first, then one logit.

    Attributes:
      widths: channels of the convolutions.
      bn_groups: BatchNorm groups of the global batch.
      dtype: type that is computed in.
    """

    widths: tuple[int, ...]
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, H, W, C] -> float32 [B]
        for i, width in enumerate(self.widths):
            x = Conv(width, 4, 2, use_bias=i == 0, init_kind="dcgan", dtype=self.dtype, name=f"conv{i + 1}")(x)
            if i:
                x = BatchNorm(self.bn_groups, dtype=self.dtype, name=f"norm{i + 1}")(x, train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(len(x), -1)  # a convolution as large as the map
        return nn.Dense(1, dtype=self.dtype, kernel_init=INITS["dcgan"], name="out")(x)[:, 0].astype(jnp.float32)
