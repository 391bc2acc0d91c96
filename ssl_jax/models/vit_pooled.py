"""Vision transformers whose features are a mean over the patches, as I-JEPA's and a fine-tuned MAE's.

`config.model.name` has them as `vit_small_gap` and the like (global average pooling), without a class token. With one
they are brought in from a file.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from ssl_jax.models import transformer_exchange as exchange
from ssl_jax.models.backbone import Backbone, Encoded, Pair, norm, pooled
from ssl_jax.models.onnx import Graph
from ssl_jax.models.patches import patches
from ssl_jax.models.transformer import INITS, open_gates
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.runtime.errors import UserError

_GAP = "_gap"


class PooledViT(ViT):
    """A vision transformer whose features are the mean of its patches.

    Attributes:
      class_token: whether there is one, which takes part in the attention alone (MAE); I-JEPA has none.
      late_norm: the last norm is of the mean (MAE's `fc_norm`), instead of each patch before it.
    """

    class_token: bool = True
    late_norm: bool = False

    options: ClassVar[frozenset[str]] = frozenset({"drop_path", "visible", "seen"})
    pools_map: ClassVar[bool] = True

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(f"{size}{_GAP}" for size in SIZES)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        if config.registers:
            raise UserError(f"config.model.registers stand beside a class token, which {config.name} has not: set 0.")
        plain = ConfigDict({**config, "name": config.name.removesuffix(_GAP)})
        return super().from_config(plain).clone(class_token=False)

    @staticmethod
    def suits(state: dict[str, np.ndarray]) -> bool:
        """Whether a state dict of timm's names is that of such a network."""
        return "patch_embed.proj.weight" in state and ("fc_norm.weight" in state or "cls_token" not in state)

    @classmethod
    def from_torch(cls, name: str, state: dict[str, np.ndarray], **options: Any) -> Backbone:
        made = super().from_torch(name.removesuffix(_GAP), state, **options)
        return made.clone(class_token="cls_token" in state, late_norm="fc_norm.weight" in state)

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        *,
        train: bool,
        stage: float | None = None,
        frozen: int = 0,
        drop_path: float = 0.0,
        keys: jax.Array | None = None,
        pool: bool | None = True,
        visible: jax.Array | None = None,
        seen: jax.Array | None = None,
    ) -> jax.Array | Encoded:
        """Encodes images; arguments as of `ViT`.

        Args:
          x: normalised images [B, H, W, C].
          train: as other backbones have it; only `drop_path` depends on it.
          stage: quarter of the depth whose output is wanted.
          frozen: the patches and so many quarters of the blocks get no gradient.
          drop_path: probability that an image skips the last block's branches.
          keys: one random key an image [B].
          pool: return the mean; None: mean and map.
          visible: indices [B, k] of the only patches that are encoded; needs `pool=False`, and no class token.
          seen: bool [B, k], which of them there are; the others are padding, which nothing attends to.

        Returns:
          the mean over the patches [B, D]; with `pool=False` their map [B, rows, columns, D], normalised one by one;
          with `pool=None` both; with `visible` these patches' tokens [B, k, D].
        """
        width, depth, _ = SIZES[self.size]
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        x = self._tokens(x, grid, visible)
        gates = open_gates(keys, drop_path, depth) if train and keys is not None else jnp.ones((1, depth, 2))
        x = self._blocks(x, gates.astype(x.dtype), stage, frozen, seen)
        x = x[:, self._before :]
        layer_norm = nn.LayerNorm(1e-6, self.dtype, name="norm")
        if visible is not None:
            return layer_norm(x)
        whole = layer_norm(x).reshape(len(x), *grid, width)
        if not self.late_norm or pool is False:
            return pooled(whole, pool)
        mean = layer_norm(x.mean(1))
        return Encoded(mean, whole) if pool is None else mean

    @property
    def _before(self) -> int:
        """Tokens in front of the patches."""
        return 1 + self.registers if self.class_token else 0

    def _tokens(self, x: jax.Array, grid: tuple[int, int], visible: jax.Array | None, masked: Any = None) -> jax.Array:
        if self.class_token:
            return super()._tokens(x, grid, visible, masked)
        width = SIZES[self.size][0]
        kernel = INITS[self.vit_init].patch
        x = nn.Dense(width, dtype=self.dtype, kernel_init=kernel, name="patch")(patches(x, self.patch))
        x += self._positions(grid, width)[:, 1:].astype(x.dtype)
        return x if visible is None else jnp.take_along_axis(x, visible[..., None], 1)

    def torch_params(self, params: Any, size: int) -> Any:
        found = super().torch_params(params, size)
        return found if self.class_token else {**found, "positions": found["positions"][:, 1:]}

    def taken_over(self, params: Any) -> Any:
        if self.class_token:
            return super().taken_over(params)
        # A row of zeros stands in for the class token's, so that all tables are alike.
        return {**params, "positions": np.pad(params["positions"], ((0, 0), (1, 0), (0, 0)))}

    def torch_pairs(self, layout: str) -> list[Pair]:
        if layout != "timm":
            raise UserError("torchvision's transformers have a class token: use the format timm, npz or safetensors.")
        pairs = super().torch_pairs(layout)[:-2]
        kept = [pair for pair in pairs if self.class_token or pair.ours != "params/token"]
        return kept + norm("norm", "fc_norm" if self.late_norm else "norm")

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        width, depth, heads = SIZES[self.size]
        sizes = {"size": size, "patch": self.patch, "channels": channels, "width": width, "depth": depth}
        more = f", class_token={self.class_token}, global_pool='avg', fc_norm={self.late_norm}"
        more += f", reg_tokens={self.registers}" if self.registers else ""
        more += ", init_values=1.0" if self.layer_scale else ""
        return exchange.timm_code(**sizes, heads=self.heads or heads, ffn=self.feed_forward, more=more)

    def onnx_tokens(self, graph: Graph, params: Any, grid: tuple[int, int]) -> str:
        width = SIZES[self.size][0]
        bias, sides = graph.constant(params["patch"]["bias"]), [self.patch] * 2
        kernel = graph.constant(self.filters(params).transpose(3, 2, 0, 1))
        x = graph.add("Conv", "images", kernel, bias, kernel_shape=sides, strides=sides)
        x = graph.add("Reshape", x, graph.constant(np.array([0, width, -1])))
        x = graph.add("Transpose", x, perm=[0, 2, 1])
        table = self.table(params, grid)
        added = [table[:, 1:]]
        if self.class_token:
            x = graph.add("Pad", x, graph.constant(np.array([0, self._before, 0, 0, 0, 0])))
            added = [table[:, :1] + params["token"], *([params["registers"]] if self.registers else []), table[:, 1:]]
        return graph.add("Add", x, graph.constant(np.concatenate(added, 1)))

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        if not self.late_norm:
            return super().onnx(graph, params, stats, size, True)
        x = self.onnx_blocks(graph, params, self._grid(size, size))[-1]
        start, end, axis = (graph.constant(np.array([n])) for n in (self._before, np.iinfo(np.int64).max, 1))
        x = graph.add("ReduceMean", graph.add("Slice", x, start, end, axis), axis, keepdims=0)
        graph.add("Identity", graph.norm(x, params["norm"]), out="features")
        return SIZES[self.size][0]
