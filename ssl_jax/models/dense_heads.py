"""Heads on a backbone's map: dense prediction, detection, and attentive pooling.

`onnx` of those of dense prediction and detection writes the head into a graph, from the name of a map [N, D, h, w] to
those of its answers.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.conv import Conv
from ssl_jax.models.norm import BatchNorm
from ssl_jax.models.onnx import Graph

_small = nn.initializers.normal(0.01)
BRANCHES = ("heat", "size", "offset")  # of CenterNet's head
truncated = nn.initializers.truncated_normal(0.02)


class LinearHead(nn.Module):
    """A 1x1 convolution behind a BatchNorm without scale and offset (DINOv2's and DINOv3's linear head).

    Attributes:
      out: channels of the answer.
    """

    out: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, h, w, D] -> float32 [B, h, w, out]
        x = BatchNorm(use_scale=False, use_bias=False, name="norm")(x.astype(jnp.float32), train)
        return nn.Dense(self.out, kernel_init=_small, name="linear")(x)

    def onnx(self, graph: Graph, x: str, params: Any, stats: Any) -> tuple[str, ...]:
        return (graph.linear_map(graph.batch_norm(x, {}, stats["norm"]), params["linear"]),)


class FCNHead(nn.Module):
    """Two dilated 3x3 convolutions with BatchNorm and ReLU, then a 1x1 convolution (MoCo, appendix; VISSL).

    Attributes:
      out: channels of the answer.
      width: channels between.
      dilation: of the kernels, places of the map.
    """

    out: int
    width: int = 256
    dilation: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, h, w, D] -> float32 [B, h, w, out]
        x = x.astype(jnp.float32)
        for i in (1, 2):
            x = Conv(self.width, 3, dilation=self.dilation, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm{i}")(x, train))
        return nn.Dense(self.out, kernel_init=_small, name="linear")(x)

    def onnx(self, graph: Graph, x: str, params: Any, stats: Any) -> tuple[str, ...]:
        for i in (1, 2):
            x = graph.conv(x, params, stats, f"conv{i}", dilation=self.dilation)
            x = graph.add("Relu", graph.batch_norm(x, params[f"norm{i}"], stats[f"norm{i}"]))
        return (graph.linear_map(x, params["linear"]),)


class ASPP(nn.Module):
    """A sum of dilated 3x3 convolutions of several dilations: DeepLab-v2's classifier, as AdaptSegNet has it.

    Attributes:
      out: channels of the answer.
      dilations: places of the map.
    """

    out: int
    dilations: Sequence[int] = (6, 12, 18, 24)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # [B, h, w, D] -> float32 [B, h, w, out]
        del train
        x, found = x.astype(jnp.float32), jnp.zeros(())
        for dilation in self.dilations:
            found = found + Conv(self.out, 3, 1, True, "gauss", dilation=dilation, name=f"conv{dilation}")(x)
        return found


class CenterNetHead(nn.Module):
    """CenterNet's deconvolutions and its three branches (Zhou et al. 2019; `lib/models/networks/msra_resnet.py`).

    Attributes:
      classes: of objects.
      doublings: transposed convolutions, each of which doubles the map; 3 for an image stride of 32.
      width: channels of the transposed convolutions.
      branch: channels of the 3x3 convolution of each branch.
    """

    classes: int
    doublings: int
    width: int = 256
    branch: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Map [B, h, w, D] to logits of the heat map [B, H, W, classes], sizes and offsets [B, H, W, 2]."""
        x = x.astype(jnp.float32)
        for i in range(self.doublings):
            layer = nn.ConvTranspose(
                self.width, (4, 4), (2, 2), "SAME", use_bias=False, kernel_init=_deconvolution, name=f"up{i + 1}"
            )
            x = nn.relu(BatchNorm(name=f"up{i + 1}_norm")(layer(x), train))

        def answer(name: str, out: int, bias: float) -> jax.Array:
            y = nn.relu(Conv(self.branch, 3, 1, True, "torch", name=f"{name}_conv")(x))
            init = nn.initializers.constant(bias)
            return nn.Dense(out, kernel_init=nn.initializers.normal(0.001), bias_init=init, name=name)(y)

        # ln(.1 / .9): at first a tenth of the places are peaks.
        return answer("heat", self.classes, -2.19), answer("size", 2, 0.0), answer("offset", 2, 0.0)

    def onnx(self, graph: Graph, x: str, params: Any, stats: Any) -> tuple[str, ...]:
        for i in range(self.doublings):
            name = f"up{i + 1}"
            # Flax correlates with the kernel where ONNX spreads it out.
            kernel = np.asarray(params[name]["kernel"])[::-1, ::-1].transpose(2, 3, 0, 1)
            sides: dict[str, Any] = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}
            x = graph.add("ConvTranspose", x, graph.constant(kernel), **sides)
            x = graph.add("Relu", graph.batch_norm(x, params[f"{name}_norm"], stats[f"{name}_norm"]))
        branches = {name: graph.add("Relu", graph.conv(x, params, {}, f"{name}_conv")) for name in BRANCHES}
        return tuple(graph.linear_map(y, params[name]) for name, y in branches.items())


# Every output pixel sees a quarter of the 4x4 taps.
_deconvolution = nn.initializers.variance_scaling(8.0, "fan_in", "normal")


class AttentivePool(nn.Module):
    """CAPI's attentive probe: a query that is learnt attends to the patches; no output projection, then a linear layer.

    Attributes:
      classes: K.
      heads: of the attention; 0: one for each 64 channels.
    """

    classes: int
    heads: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:  # tokens [B, n, D] -> logits [B, K]
        del train
        x, width = x.astype(jnp.float32), x.shape[-1]
        query = self.param("query", truncated, (width,))
        keys, values = jnp.split(nn.Dense(2 * width, kernel_init=truncated, name="kv")(x), 2, -1)
        pooled = attended(query, keys, values, self.heads or max(width // 64, 1))
        return nn.Dense(self.classes, kernel_init=truncated, name="linear")(pooled)


class CrossAttentionPool(nn.Module):
    """V-JEPA's attentive probe of depth 1: a cross-attention block from a query, then a linear layer.

    The query is not normalised, and the attention has no output projection.

    Attributes:
      classes: K.
      heads: of the attention; 0: one for each 64 channels.
      ratio: width of the feed-forward network by that of the tokens.
    """

    classes: int
    heads: int = 0
    ratio: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:  # tokens [B, n, D] -> logits [B, K]
        del train
        x, width = x.astype(jnp.float32), x.shape[-1]

        def dense(out: int, name: str, init: Any = truncated) -> nn.Module:
            return nn.Dense(out, kernel_init=init, name=name)

        query = self.param("query", truncated, (width,))
        keys, values = jnp.split(dense(2 * width, "kv")(nn.LayerNorm(1e-5, name="norm1")(x)), 2, -1)
        y = query + attended(dense(width, "q")(query), keys, values, self.heads or max(width // 64, 1))
        h = nn.gelu(dense(self.ratio * width, "fc1")(nn.LayerNorm(1e-5, name="norm2")(y)), approximate=False)
        # The authors rescale the last layer of block i by 1 / sqrt(2 i).
        y += dense(width, "fc2", nn.initializers.truncated_normal(0.02 / 2**0.5))(h)
        return dense(self.classes, "linear")(y)


def attended(query: jax.Array, keys: jax.Array, values: jax.Array, heads: int) -> jax.Array:
    """What one query sees of each image: softmax attention of so many heads.

    Args:
      query: [D].
      keys: [B, n, D].
      values: [B, n, D].
      heads: which share the D channels.

    Returns:
      [B, D].
    """
    b, n, width = keys.shape
    split = (b, n, heads, width // heads)
    scores = jnp.einsum("hd,bnhd->bhn", query.reshape(heads, -1), keys.reshape(split), precision="highest")
    weights = jax.nn.softmax(scores / (width // heads) ** 0.5)
    return jnp.einsum("bhn,bnhd->bhd", weights, values.reshape(split), precision="highest").reshape(b, width)
