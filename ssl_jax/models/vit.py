"""Vision transformers (Dosovitskiy et al. 2021) as DINO, MoCo v3 and MAE train them."""

from collections.abc import Sequence
import itertools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.view import View
from ssl_jax.models import transformer_exchange as exchange
from ssl_jax.models.backbone import Backbone, Encoded, Pair, one_of
from ssl_jax.models.onnx import Graph
from ssl_jax.models.patches import patches, resized, sincos, without_registers
from ssl_jax.models.transformer import INITS, TransformerBlock, normal, open_gates, scanned
from ssl_jax.runtime.errors import UserError

# Width, blocks and heads. MoCo v3 gives vit_small twice the heads.
SIZES = {
    "vit_micro": (64, 4, 2),  # for a laptop
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),  # MAE
    "vit_giant": (1536, 40, 24),  # DINOv2, whose feed-forward network is a SwiGLU
}
FFNS = ("mlp", "swiglu")


class ViT(Backbone):
    """A vision transformer without its classifier; pre-norm blocks, biases everywhere.

    Attributes:
      size: a key of `SIZES`.
      patch: side of a patch, pixels.
      heads: of the attention; 0 for the size's own.
      positions: 'learned', interpolated where the grid of patches is not that of initialisation, or 'sincos', fixed.
      vit_init: how weights start, a key of `INITS`.
      fixed_patch: leave the projection of patches as it starts (MoCo v3, sec. 4.2).
      bn_groups: BatchNorm groups of the global batch, for heads; there is none in here.
      dtype: type that is computed in; norms and softmax are float32.
      remat: the blocks of the first so many stages are computed anew in the backward pass.
      scan: compile one block and run it in a loop, instead of all blocks one after the other.
      ffn: feed-forward network of a block, one of `FFNS`; '' for the size's own.
      registers: tokens beside the class token that are thrown away at the end (Darcet et al. 2024).
      layer_scale: start of LayerScale's factors; 0: there are none.
    """

    size: str = "vit_small"
    patch: int = 16
    heads: int = 0
    positions: str = "learned"
    vit_init: str = "dino"
    fixed_patch: bool = False
    bn_groups: int = 1
    dtype: Any = jnp.float32
    remat: int = 0
    scan: bool = False
    ffn: str = ""
    registers: int = 0
    layer_scale: float = 0.0

    options: ClassVar[frozenset[str]] = frozenset({"drop_path", "visible", "masked"})
    pools_map: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True  # that of its positions
    plain: ClassVar[bool] = False  # blocks with RMSNorm and without biases (CAPI)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(SIZES)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        one_of("config.model.positions", config.positions, ("learned", "sincos"))
        one_of("config.model.vit_init", config.vit_init, INITS)
        one_of("config.model.ffn", config.ffn, ("", *FFNS))
        width, _, heads = SIZES[config.name]
        heads = config.heads or heads
        if width % heads:
            raise UserError(
                f"config.model.heads is {heads}, which does not divide the {width} channels of {config.name}."
            )
        return super().from_config(config).clone(size=config.name, heads=heads)

    @property
    def title(self) -> str:
        registers = f", {self.registers} registers" if self.registers else ""
        return f"{self.size}, patches of {self.patch} pixels{registers}"

    @property
    def stages(self) -> int:
        """Number of stages: quarters of the depth."""
        return 4

    @property
    def _before(self) -> int:
        """Tokens in front of the patches."""
        return 1 + self.registers

    def last_blocks(self, count: int) -> tuple[float, ...]:
        depth = SIZES[self.size][1]
        return tuple(block * self.stages / depth for block in range(max(0, depth - count) + 1, depth + 1))

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that never move."""
        return ("patch",) if self.fixed_patch else ()

    def stage_of(self, name: str) -> int:
        """The stage that a part of the parameters belongs to, by its name; 0: before the first block."""
        if name == "norm":
            return self.stages
        depth = SIZES[self.size][1]
        return -(-int(name.removeprefix("block")) * self.stages // depth) if name.startswith("block") else 0

    @nn.compact
    def __call__(
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
        masked: tuple[jax.Array, jax.Array] | None = None,
        gates: jax.Array | None = None,
        turns: jax.Array | None = None,
    ) -> jax.Array | Encoded:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: as other backbones have it; only `drop_path` depends on it.
          stage: quarter of the depth (1 to 4) whose output is wanted; 11 / 3: the eleventh of twelve blocks.
          frozen: the patches and so many quarters of the blocks get no gradient.
          drop_path: probability that an image skips the last block's branches, falling linearly to 0 at the first.
          keys: one random key an image [B]; without them no branch is skipped.
          pool: return the class token; None: the class token and the map.
          visible: indices [B, k] of the only patches that are seen (MAE); needs `pool=False`.
          masked: bool [B, rows columns] and a token [1, 1, D], which is seen in the place of those patches (iBOT).
          gates: factors [B, blocks, 2] of the residual branches, instead of those drawn with `drop_path`.
          turns: rotary positions of all tokens, instead of its own; None: as `_turns` has them.

        Returns:
          class token after the last norm [B, D]; with `pool=False` the map of the patches' tokens [B, rows, columns,
          D], or with `visible` all tokens, the class token's first, [B, 1 + k, D]; with `pool=None` token and map.

        Raises:
          UserError: if the images do not divide into patches.
        """
        width, depth, _ = SIZES[self.size]
        grid = self._grid(*x.shape[1:3])
        x = self._tokens(x, grid, visible, masked)
        if gates is None:
            gates = open_gates(keys, drop_path, depth) if train and keys is not None else jnp.ones((1, depth, 2))
        turns = self._turns(grid, visible) if turns is None else turns
        x = self._blocks(x, gates.astype(x.dtype), stage, frozen, turns=turns)
        if self.registers and not pool:
            x = jnp.concatenate([x[:, :1], x[:, 1 + self.registers :]], 1)
        layer_norm = nn.LayerNorm(1e-6, self.dtype, name="norm")
        if pool is None:
            return Encoded(layer_norm(x[:, 0]), layer_norm(x[:, 1:]).reshape(len(x), *grid, width))
        x = layer_norm(x[:, 0] if pool else x)
        return x if pool or visible is not None else x[:, 1:].reshape(len(x), *grid, width)

    def _tokens(self, x: jax.Array, grid: tuple[int, int], visible: jax.Array | None, masked: Any = None) -> jax.Array:
        """Class token, registers and visible patches of images, with their positions [B, n, D]."""
        width, init = SIZES[self.size][0], INITS[self.vit_init]
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init.patch, name="patch")(patches(x, self.patch))
        if self.fixed_patch:
            x = jax.lax.stop_gradient(x)
        if masked is not None:
            x = jnp.where(masked[0][..., None], masked[1].astype(x.dtype), x)
        token = self.param("token", init.token, (1, 1, width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, width)), x], 1)
        x += self._positions(grid, width).astype(x.dtype)
        if visible is not None:
            x = jnp.concatenate([x[:, :1], jnp.take_along_axis(x[:, 1:], visible[..., None], 1)], 1)
        if not self.registers:
            return x
        tokens = self.param("registers", init.registers, (1, self.registers, width)).astype(x.dtype)
        return jnp.concatenate([x[:, :1], jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:])), x[:, 1:]], 1)

    def _blocks(self, x: jax.Array, gates: Any, stage: Any, frozen: int, seen: Any = None, turns: Any = None) -> Any:
        """The blocks up to a stage, in runs whose blocks are alike for the backward pass."""
        depth = SIZES[self.size][1]
        count = round(depth * (stage or self.stages) / self.stages)
        fixed, anew = depth * frozen // self.stages, -(-depth * self.remat // self.stages)
        cuts = sorted({0, min(fixed, count), min(anew, count), count})
        fields = {"heads": self.heads or SIZES[self.size][2], "inits": INITS[self.vit_init], "dtype": self.dtype}
        fields |= {"ffn": self.feed_forward, "layer_scale": self.layer_scale, "plain": self.plain}
        for start, stop in itertools.pairwise(cuts):
            if self.scan and not self.is_initializing():
                params: list[Any] = [self.get_variable("params", f"block{i + 1}") for i in range(start, stop)]
                alone = TransformerBlock(**fields, parent=None)
                x = scanned(alone, params, x, gates[:, start:stop], stop <= anew, seen, turns)
            else:
                kind = nn.remat(TransformerBlock) if stop <= anew else TransformerBlock
                for i in range(start, stop):
                    x = kind(**fields, name=f"block{i + 1}")(x, gates[:, i], seen, turns)
            x = jax.lax.stop_gradient(x) if stop == fixed else x
        return x

    @property
    def feed_forward(self) -> str:
        """Feed-forward network of a block, one of `FFNS`."""
        return self.ffn or ("swiglu" if self.size == "vit_giant" else "mlp")

    def _turns(self, grid: tuple[int, int], visible: jax.Array | None) -> jax.Array | None:
        """Rotary positions of all tokens; None: it has others."""
        return None

    def _positions(self, grid: tuple[int, int], width: int) -> jax.Array:
        if self.positions == "sincos":
            return jnp.asarray(sincos(grid, width))
        # Views of other sizes than that of initialisation see the same parameter.
        if self.has_variable("params", "positions"):
            return resized(self.get_variable("params", "positions"), grid)
        return self.param("positions", normal, (1, 1 + grid[0] * grid[1], width))

    def filters(self, params: Any) -> np.ndarray:
        return np.asarray(params["patch"]["kernel"]).reshape(self.patch, self.patch, -1, SIZES[self.size][0])

    def usual_view(self, params: Any) -> View:
        """Images of the size that the positions are for."""
        side = round((jnp.shape(params["positions"])[1] - 1) ** 0.5) * self.patch
        return View(size=side, crop="centre", centre=0.875, interpolation="bicubic", order=("crop",))

    def torch_twin(self) -> Backbone:
        """A state dict holds fixed positions, too."""
        return self.clone(positions="learned")

    def torch_params(self, params: Any, size: int) -> Any:
        """Registers have positions in timm, too, which are zero."""
        table = self.table(params, self._grid(size, size))
        nothing = np.zeros((1, self.registers, table.shape[2]), table.dtype)
        return {**params, "positions": np.concatenate([table[:, :1], nothing, table[:, 1:]], 1)}

    def taken_over(self, params: Any) -> Any:
        if not self.registers:
            return params
        positions, registers = without_registers(params["positions"], params["registers"])
        return {**params, "positions": positions, "registers": registers}

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of an image."""
        return height // self.patch, width // self.patch

    def table(self, params: Any, grid: tuple[int, int]) -> np.ndarray:
        """Positions [1, 1 + patches, D] for so many rows and columns of patches, learned or fixed."""
        fixed, width = self.positions == "sincos", SIZES[self.size][0]
        return sincos(grid, width) if fixed else np.asarray(resized(jnp.asarray(params["positions"]), grid))

    def torch_pairs(self, layout: str) -> list[Pair]:
        if layout != "timm" and (self.registers or self.layer_scale or self.feed_forward != "mlp"):
            raise UserError(
                "torchvision has no transformer with registers, LayerScale or SwiGLU: use the format timm, npz or "
                "safetensors."
            )
        return exchange.pairs(layout, SIZES[self.size][1], bool(self.registers), bool(self.layer_scale))

    @classmethod
    def from_torch(cls, name: str, state: dict[str, np.ndarray], **options: Any) -> Backbone:
        return cls(name, heads=options.get("heads") or SIZES[name][2], **exchange.fields(name, state))

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        width, depth, heads = SIZES[self.size]
        sizes = {"size": size, "patch": self.patch, "channels": channels, "width": width, "depth": depth}
        sizes["heads"] = self.heads or heads
        if layout == "torchvision":
            return exchange.torchvision_code(**sizes)
        more = f", reg_tokens={self.registers}" * bool(self.registers) + ", init_values=1.0" * bool(self.layer_scale)
        return exchange.timm_code(**sizes, ffn=self.feed_forward, more=more)

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        x = self.onnx_blocks(graph, params, self._grid(size, size))[-1]
        exchange.onnx_features(graph, x, params["norm"], self._before, mean)
        return SIZES[self.size][0]

    def onnx_maps(
        self, graph: Graph, params: Any, stats: Any, size: tuple[int, int], stages: Sequence[int]
    ) -> list[str]:
        blocks = self.onnx_blocks(graph, params, grid := self._grid(*size))
        seen = (blocks[round((len(blocks) - 1) * stage / self.stages)] for stage in stages)
        return [exchange.onnx_map(graph, x, params["norm"], self._before, grid) for x in seen]

    def onnx_blocks(self, graph: Graph, params: Any, grid: tuple[int, int]) -> list[str]:
        """Writes tokens and blocks into a graph; the names of the tokens before the first and after each block."""
        x = self.onnx_tokens(graph, params, grid)
        return exchange.onnx_blocks(graph, x, params, self.heads or SIZES[self.size][2], self.feed_forward)

    def onnx_tokens(self, graph: Graph, params: Any, grid: tuple[int, int]) -> str:
        """Writes the tokens before the first block into a graph; their name."""
        return exchange.onnx_tokens(graph, params, self.filters(params), self.table(params, grid))
