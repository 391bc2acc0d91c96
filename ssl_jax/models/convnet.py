"""A small convolutional backbone for tiny images such as 8x8 digits."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.backbone import Backbone, Encoded, one_of, pooled
from ssl_jax.models.conv import Conv
from ssl_jax.models.norm import NORMS, Norm, norm_title
from ssl_jax.models.onnx import Graph


class ConvNet(Backbone):
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

    kind: ClassVar[str] = "convnet"
    stages: ClassVar[int] = 3  # layers whose output can be asked for

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return (cls.kind.lower().replace("-", ""),)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        one_of("config.model.norm", config.norm, NORMS)
        return super().from_config(config)

    @property
    def title(self) -> str:
        return f"{self.kind} of width {self.width}{norm_title(self.norm)}"

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: use the statistics of the batch, and update the running ones.
          stage: layer, from 1, whose output is wanted; default the last.
          frozen: so many layers keep their running statistics, and get no gradient.
          pool: average over the image; None: return both.

        Returns:
          globally average-pooled features [B, D]; with `pool=False` the feature map [B, h, w, D]; with None both.
        """
        x = x.astype(self.dtype)
        for i in range(stage or self.stages):
            width, stride = self.layer(i)
            x = Conv(width, 3, stride, False, self.conv_init, self.dtype, name=f"stage{i + 1}")(x)
            norm = Norm(self.norm, self.bn_groups, dtype=self.dtype, name=f"stage{i + 1}_norm")
            x = self.shrunk(nn.relu(norm(x, train and i >= frozen)))
            x = jax.lax.stop_gradient(x) if i + 1 == frozen else x
        return pooled(x, pool)

    def layer(self, i: int) -> tuple[int, int]:
        """Channels and stride of layer i, from 0."""
        return self.width * 2**i, 1 if i == 0 else 2

    def shrunk(self, x: jax.Array) -> jax.Array:
        """What follows each ReLU."""
        return x

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        graph.average(self.onnx_maps(graph, params, stats, (size, size), [self.stages])[0])
        return self.width * 2 ** (self.stages - 1)

    def onnx_maps(
        self, graph: Graph, params: Any, stats: Any, size: tuple[int, int], stages: Sequence[int]
    ) -> list[str]:
        if self.norm not in ("batch", "none"):
            raise self._without_graph()
        maps = ["images"]
        for i in range(max(stages)):
            stride = self.layer(i)[1]
            maps.append(graph.add("Relu", graph.conv(maps[-1], params, stats, f"stage{i + 1}", stride)))
        return [maps[stage] for stage in stages]
