"""Conv-4: the backbone of few-shot learning."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax

from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.onnx import Graph
from ssl_jax.models.pool import halved


class Conv4(ConvNet):
    """Four 3x3 convolutions of one width, each followed by a norm, a ReLU and 2x2 max-pooling (Vinyals et al. 2016).

    Of an image of 28 pixels one pixel is left, so that the pooled features are the authors' flattened map. Attributes
    are those of `ConvNet`; `width` is that of every layer.
    """

    width: int = 64
    conv_init: str = "torch"

    kind: ClassVar[str] = "Conv-4"
    stages: ClassVar[int] = 4

    def layer(self, i: int) -> tuple[int, int]:
        """Channels and stride of every layer."""
        return self.width, 1

    def shrunk(self, x: jax.Array) -> jax.Array:
        """Half as many rows and columns, until one is left."""
        return halved(x) if min(x.shape[1:3]) > 1 else x

    def onnx_maps(
        self, graph: Graph, params: Any, stats: Any, size: tuple[int, int], stages: Sequence[int]
    ) -> list[str]:
        raise self._without_graph()
