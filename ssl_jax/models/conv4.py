"""Conv-4: the backbone of few-shot learning."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Backbone, Encoded, one_of, pooled
from ssl_jax.models.conv import INITS, Conv
from ssl_jax.models.norm import NORMS, Norm, norm_title
from ssl_jax.models.pool import halved


class Conv4(Backbone):
    """Four 3x3 convolutions of one width, each followed by a norm, a ReLU and 2x2 max-pooling (Vinyals et al. 2016).

    Of an image of 28 pixels one pixel is left, so that the pooled features are the authors' flattened map.

    Attributes:
      width: channels of each layer.
      norm: 'batch', 'group', 'layer' or 'none'.
      bn_groups: BatchNorm groups of the global batch.
      conv_init: how convolutions start, a key of `conv.INITS`.
      dtype: type that is computed in.
    """

    width: int = 64
    norm: str = "batch"
    bn_groups: int = 1
    conv_init: str = "torch"
    dtype: Any = jnp.float32

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return ("conv4",)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        one_of("config.model.norm", config.norm, NORMS)
        one_of("config.model.conv_init", config.conv_init, INITS)
        return super().from_config(config)

    @property
    def title(self) -> str:
        return f"Conv-4 of width {self.width}{norm_title(self.norm)}"

    @property
    def stages(self) -> int:
        """Number of layers whose output can be asked for."""
        return 4

    def stage_of(self, name: str) -> int:
        """The layer that a part of the parameters belongs to, by its name."""
        return int(name.removeprefix("stage").split("_")[0])

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """Encodes images; arguments as of `Backbone`."""
        x = x.astype(self.dtype)
        for i in range(stage or self.stages):
            x = Conv(self.width, 3, 1, False, self.conv_init, self.dtype, name=f"stage{i + 1}")(x)
            norm = Norm(self.norm, self.bn_groups, dtype=self.dtype, name=f"stage{i + 1}_norm")
            x = nn.relu(norm(x, train and i >= frozen))
            x = halved(x) if min(x.shape[1:3]) > 1 else x
            x = jax.lax.stop_gradient(x) if i + 1 == frozen else x
        return pooled(x, pool)
