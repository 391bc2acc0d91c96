"""Vision transformers (Dosovitskiy et al. 2021) as DINO, MoCo v3 and MAE train them."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.view import View
from ssl_jax.models.backbone import Backbone, Encoded, Pair, linear, norm, one_of
from ssl_jax.models.onnx import Graph
from ssl_jax.models.patches import patches, resized, sincos
from ssl_jax.models.transformer import INITS, TransformerBlock, normal, open_gates
from ssl_jax.runtime.errors import UserError

# Width, blocks and heads. MoCo v3 gives vit_small twice the heads.
SIZES = {
    "vit_micro": (64, 4, 2),  # for a laptop
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


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

    options: ClassVar[frozenset[str]] = frozenset({"drop_path", "visible"})
    pools_map: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True  # that of its positions

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(SIZES)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        one_of("config.model.positions", config.positions, ("learned", "sincos"))
        one_of("config.model.vit_init", config.vit_init, INITS)
        width, _, heads = SIZES[config.name]
        heads = config.heads or heads
        if width % heads:
            raise UserError(
                f"config.model.heads is {heads}, which does not divide the {width} channels of {config.name}."
            )
        return super().from_config(config).clone(size=config.name, heads=heads)

    @property
    def title(self) -> str:
        return f"{self.size}, patches of {self.patch} pixels"

    @property
    def stages(self) -> int:
        """Number of stages: quarters of the depth."""
        return 4

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
        stage: int | None = None,
        frozen: int = 0,
        drop_path: float = 0.0,
        keys: jax.Array | None = None,
        pool: bool | None = True,
        visible: jax.Array | None = None,
    ) -> jax.Array | Encoded:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: as other backbones have it; only `drop_path` depends on it.
          stage: quarter of the depth (1 to 4) whose output is wanted; default the last.
          frozen: the patches and so many quarters of the blocks get no gradient.
          drop_path: probability that an image skips the last block's branches, falling linearly to 0 at the first.
          keys: one random key an image [B]; without them no branch is skipped.
          pool: return the class token; None: the class token and the map.
          visible: indices [B, k] of the only patches that are seen (MAE); needs `pool=False`.

        Returns:
          class token after the last norm [B, D]; with `pool=False` the map of the patches' tokens [B, rows, columns,
          D], or with `visible` all tokens, the class token's first, [B, 1 + k, D]; with `pool=None` token and map.

        Raises:
          UserError: if the images do not divide into patches.
        """
        width, depth, heads = SIZES[self.size]
        init = INITS[self.vit_init]
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init.patch, name="patch")(patches(x, self.patch))
        if self.fixed_patch:
            x = jax.lax.stop_gradient(x)
        token = self.param("token", init.token, (1, 1, width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, width)), x], 1)
        x += self._positions(grid, width).astype(x.dtype)
        if visible is not None:
            x = jnp.concatenate([x[:, :1], jnp.take_along_axis(x[:, 1:], visible[..., None], 1)], 1)
        gates = jnp.ones((1, depth, 2))
        if train and keys is not None:
            gates = open_gates(keys, drop_path, depth)
        for i in range(depth * (stage or self.stages) // self.stages):
            block = nn.remat(TransformerBlock) if i * self.stages < self.remat * depth else TransformerBlock
            x = block(self.heads or heads, init, self.dtype, name=f"block{i + 1}")(x, gates[:, i].astype(x.dtype))
            x = jax.lax.stop_gradient(x) if i + 1 == depth * frozen // self.stages else x
        layer_norm = nn.LayerNorm(1e-6, self.dtype, name="norm")
        if pool is None:
            return Encoded(layer_norm(x[:, 0]), layer_norm(x[:, 1:]).reshape(len(x), *grid, width))
        x = layer_norm(x[:, 0] if pool else x)
        if pool or visible is not None:
            return x
        return x[:, 1:].reshape(len(x), *grid, width)

    def _positions(self, grid: tuple[int, int], width: int) -> jax.Array:
        if self.positions == "sincos":
            return jnp.asarray(sincos(grid, width))
        # Views of other sizes than that of initialisation see the same parameter.
        if self.has_variable("params", "positions"):
            return resized(self.get_variable("params", "positions"), grid)
        return self.param("positions", normal, (1, 1 + grid[0] * grid[1], width))

    def filters(self, params: Any) -> np.ndarray:
        kernel = np.asarray(params["patch"]["kernel"])
        return kernel.reshape(self.patch, self.patch, -1, kernel.shape[-1])

    def usual_view(self, params: Any) -> View:
        """Images of the size that the positions are for."""
        side = round((jnp.shape(params["positions"])[1] - 1) ** 0.5) * self.patch
        return View(size=side, crop="centre", centre=0.875, interpolation="bicubic", order=("crop",))

    def torch_twin(self) -> Backbone:
        """A state dict holds fixed positions, too."""
        return self.clone(positions="learned")

    def torch_params(self, params: Any, size: int) -> Any:
        return {**params, "positions": self.table(params, size)}

    def table(self, params: Any, size: int) -> np.ndarray:
        """Positions [1, 1 + patches, D] for images of `size` pixels, learned or fixed."""
        grid = (size // self.patch, size // self.patch)
        if self.positions == "sincos":
            return sincos(grid, SIZES[self.size][0])
        return np.asarray(resized(jnp.asarray(params["positions"]), grid))

    def torch_pairs(self, layout: str) -> list[Pair]:
        timm = layout == "timm"
        pairs = [
            Pair("params/token", "cls_token" if timm else "class_token"),
            Pair("params/positions", "pos_embed" if timm else "encoder.pos_embedding"),
            *linear("patch", "patch_embed.proj" if timm else "conv_proj", "patch"),
        ]
        for i in range(SIZES[self.size][1]):
            pairs += _timm_block(i) if timm else _torchvision_block(i)
        return pairs + norm("norm", "norm" if timm else "encoder.ln")

    @classmethod
    def from_torch(cls, name: str, state: dict[str, np.ndarray], **options: Any) -> Backbone:
        kernel = next((state[k] for k in ("patch_embed.proj.weight", "conv_proj.weight") if k in state), None)
        if kernel is None or kernel.ndim != 4:
            raise UserError(
                f"The weights lack patch_embed.proj.weight, so they are not those of a {name}: give another --arch."
            )
        return cls(name, kernel.shape[-1], options.get("heads") or SIZES[name][2])

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        width, depth, heads = SIZES[self.size]
        heads = self.heads or heads
        if layout == "timm":
            return (
                "import timm\n\n"
                f"model = timm.models.VisionTransformer(\n    img_size={size}, patch_size={self.patch}, "
                f"in_chans={channels}, embed_dim={width}, depth={depth}, num_heads={heads}, num_classes=0\n)"
            )
        lines = [
            "from torchvision.models import VisionTransformer",
            "",
            f"model = VisionTransformer({size}, {self.patch}, {depth}, {heads}, {width}, {4 * width})",
            "model.heads = nn.Identity()",
        ]
        if channels != 3:
            lines.append(f"model.conv_proj = nn.Conv2d({channels}, {width}, {self.patch}, {self.patch})")
        return "\n".join(lines)

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        width, depth, heads = SIZES[self.size]
        bias, sides = graph.constant(params["patch"]["bias"]), [self.patch] * 2
        kernel = graph.constant(self.filters(params).transpose(3, 2, 0, 1))
        x = graph.add("Conv", "images", kernel, bias, kernel_shape=sides, strides=sides)
        x = graph.add("Reshape", x, graph.constant(np.array([0, width, -1])))
        x = graph.add("Transpose", x, perm=[0, 2, 1])
        # The class token goes where a row of zeros is put in front: it is added with the positions.
        x = graph.add("Pad", x, graph.constant(np.array([0, 1, 0, 0, 0, 0])))
        table = np.array(self.table(params, size))
        table[:, 0] += np.asarray(params["token"])[0, 0]
        x = graph.add("Add", x, graph.constant(table))
        for i in range(depth):
            x = _onnx_block(graph, x, params[f"block{i + 1}"], self.heads or heads, width)
        if mean:
            start, end, axis = (graph.constant(np.array([n])) for n in (1, np.iinfo(np.int64).max, 1))
            patches = graph.norm(graph.add("Slice", x, start, end, axis), params["norm"])
            graph.add("ReduceMean", patches, axis, keepdims=0, out="features")
        else:
            x = graph.add("Gather", x, graph.constant(np.array(0)), axis=1)
            graph.add("Identity", graph.norm(x, params["norm"]), out="features")
        return width


def _timm_block(i: int) -> list[Pair]:
    ours, theirs = f"block{i + 1}", f"blocks.{i}"
    return [
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *linear(f"{ours}/qkv", f"{theirs}.attn.qkv"),
        *linear(f"{ours}/proj", f"{theirs}.attn.proj"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *linear(f"{ours}/mlp1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp2", f"{theirs}.mlp.fc2"),
    ]


def _torchvision_block(i: int) -> list[Pair]:
    ours, theirs = f"block{i + 1}", f"encoder.layers.encoder_layer_{i}"
    return [
        *norm(f"{ours}/norm1", f"{theirs}.ln_1"),
        Pair(f"params/{ours}/qkv/kernel", f"{theirs}.self_attention.in_proj_weight", "dense"),
        Pair(f"params/{ours}/qkv/bias", f"{theirs}.self_attention.in_proj_bias"),
        *linear(f"{ours}/proj", f"{theirs}.self_attention.out_proj"),
        *norm(f"{ours}/norm2", f"{theirs}.ln_2"),
        *linear(f"{ours}/mlp1", f"{theirs}.mlp.0"),
        *linear(f"{ours}/mlp2", f"{theirs}.mlp.3"),
    ]


def _onnx_block(graph: Graph, x: str, params: Any, heads: int, width: int) -> str:
    y = graph.linear(graph.norm(x, params["norm1"]), params["qkv"])
    y = graph.add("Reshape", y, graph.constant(np.array([0, 0, 3, heads, width // heads])))
    y = graph.add("Transpose", y, perm=[2, 0, 3, 1, 4])  # [3, N, heads, n, D / heads]
    q, k, v = (graph.add("Gather", y, graph.constant(np.array(i)), axis=0) for i in range(3))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Mul", scores, graph.constant(np.array((width // heads) ** -0.5)))
    y = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    y = graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), graph.constant(np.array([0, 0, width])))
    x = graph.add("Add", x, graph.linear(y, params["proj"]))
    y = graph.add("Gelu", graph.linear(graph.norm(x, params["norm2"]), params["mlp1"]))
    return graph.add("Add", x, graph.linear(y, params["mlp2"]))
