"""A backbone outside the package, all that a user has to write: one fully connected layer per stage."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Backbone, Encoded, pooled


class OwnBackbone(Backbone):
    """Layers over each pixel of a coarse map; `width` comes from `config.model.width`."""

    width: int = 8
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @property
    def stages(self) -> int:
        return 2

    def stage_of(self, name: str) -> int:
        return int(name.removeprefix("layer"))

    def channels(self, params: Any) -> int:
        return params["layer1"]["kernel"].shape[0] // 16

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        b, h, w, c = x.shape
        x = x.astype(self.dtype).reshape(b, h // 4, 4, w // 4, 4, c).swapaxes(2, 3).reshape(b, h // 4, w // 4, -1)
        for i in range(1, (stage or self.stages) + 1):
            x = nn.relu(nn.Dense(i * self.width, dtype=self.dtype, name=f"layer{i}")(x))
            x = jax.lax.stop_gradient(x) if i == frozen else x
        return pooled(x, pool)
