"""A transformer's blocks elsewhere: names in timm and torchvision, code that builds them, ONNX graph."""

from typing import Any

import numpy as np

from ssl_jax.models import rotary
from ssl_jax.models.backbone import Pair, linear, norm
from ssl_jax.models.onnx import Graph
from ssl_jax.models.transformer import swiglu_width
from ssl_jax.runtime.errors import UserError

REGISTERS = ("reg_token", "register_tokens", "storage_tokens")  # in timm, DINOv2 and DINOv3


def pairs(layout: str, depth: int, registers: bool, layer_scale: bool) -> list[Pair]:
    """All arrays of a network and their names in torch, as `Backbone.torch_pairs` has them."""
    timm = layout == "timm"
    found = [
        Pair("params/token", "cls_token" if timm else "class_token"),
        Pair("params/positions", "pos_embed" if timm else "encoder.pos_embedding"),
        *linear("patch", "patch_embed.proj" if timm else "conv_proj", "patch"),
        *([Pair("params/registers", "reg_token")] if registers else []),
    ]
    for i in range(depth):
        found += timm_pairs(i, layer_scale) if timm else torchvision_pairs(i)
    return found + norm("norm", "norm" if timm else "encoder.ln")


def fields(name: str, state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Fields of the network that a state dict belongs to.

    Args:
      name: of the architecture, for the message.
      state: names of torchvision or timm, without prefix and without heads.

    Raises:
      UserError: if it is no transformer.
    """
    kernel = next((state[k] for k in ("patch_embed.proj.weight", "conv_proj.weight") if k in state), None)
    if kernel is None or kernel.ndim != 4:
        raise UserError(
            f"The weights lack patch_embed.proj.weight, so they are not those of a {name}: give another --arch."
        )
    registers = next((len(state[k][0]) for k in REGISTERS if k in state), 0)
    factors = float("blocks.0.ls1.gamma" in state)
    return {"patch": kernel.shape[-1], "registers": registers, "layer_scale": factors}


def timm_pairs(i: int, layer_scale: bool) -> list[Pair]:
    """The names of a block in timm and DINOv2."""
    ours, theirs = f"block{i + 1}", f"blocks.{i}"
    factors = [Pair(f"params/{ours}/scale{k}", f"{theirs}.ls{k}.gamma") for k in (1, 2)]
    return [
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *linear(f"{ours}/qkv", f"{theirs}.attn.qkv"),
        *linear(f"{ours}/proj", f"{theirs}.attn.proj"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *linear(f"{ours}/mlp1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp2", f"{theirs}.mlp.fc2"),
        *(factors if layer_scale else []),
    ]


def torchvision_pairs(i: int) -> list[Pair]:
    """The names of a block in torchvision."""
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


def timm_code(size: int, patch: int, channels: int, width: int, depth: int, heads: int, ffn: str, more: str) -> str:
    """Python that builds `model` with timm; `more`: further arguments, each behind a comma."""
    if ffn == "swiglu":
        ratio = 2 * swiglu_width(width) / width
        more += f",\n    mlp_ratio={ratio!r}, mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU"
    return (
        f"import timm\n\nmodel = timm.models.VisionTransformer(\n    img_size={size}, patch_size={patch}, "
        f"in_chans={channels}, embed_dim={width}, depth={depth}, num_heads={heads}, num_classes=0{more}\n)"
    )


def torchvision_code(size: int, patch: int, channels: int, width: int, depth: int, heads: int) -> str:
    """Python that builds `model` with torchvision."""
    lines = [
        "from torchvision.models import VisionTransformer",
        "",
        f"model = VisionTransformer({size}, {patch}, {depth}, {heads}, {width}, {4 * width})",
        "model.heads = nn.Identity()",
    ]
    if channels != 3:
        lines.append(f"model.conv_proj = nn.Conv2d({channels}, {width}, {patch}, {patch})")
    return "\n".join(lines)


def onnx_tokens(graph: Graph, params: Any, filters: np.ndarray, table: np.ndarray) -> str:
    """Writes class token, registers and patches of the value 'images', with their positions, into a graph.

    Args:
      graph: to write into.
      params: of the network.
      filters: of the projection of patches [side, side, C, D].
      table: positions [1, 1 + patches, D].

    Returns:
      the name of the tokens.
    """
    side, width = filters.shape[0], filters.shape[3]
    kernel, bias = graph.constant(filters.transpose(3, 2, 0, 1)), graph.constant(params["patch"]["bias"])
    x = graph.add("Conv", "images", kernel, bias, kernel_shape=[side] * 2, strides=[side] * 2)
    x = graph.add("Reshape", x, graph.constant(np.array([0, width, -1])))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    # Class token and registers go where rows of zeros are put in front: they are added with the positions.
    registers = [params["registers"]] if "registers" in params else []
    before = 1 + sum(r.shape[1] for r in registers)
    x = graph.add("Pad", x, graph.constant(np.array([0, before, 0, 0, 0, 0])))
    tokens = [table[:, :1] + params["token"], *registers, table[:, 1:]]
    return graph.add("Add", x, graph.constant(np.concatenate(tokens, 1)))


def onnx_block(graph: Graph, x: str, params: Any, heads: int, ffn: str, turns: np.ndarray | None = None) -> str:
    """A block in an ONNX graph; `params` are its own, and `turns` rotary positions [2, 1, n, D / heads], if any."""
    width = len(params["norm1"]["scale"])

    def scaled(y: str, name: str) -> str:
        return graph.add("Mul", y, graph.constant(params[name])) if name in params else y

    y = graph.linear(graph.norm(x, params["norm1"]), params["qkv"])
    y = graph.add("Reshape", y, graph.constant(np.array([0, 0, 3, heads, width // heads])))
    y = graph.add("Transpose", y, perm=[2, 0, 3, 1, 4])  # [3, N, heads, n, D / heads]
    q, k, v = (graph.add("Gather", y, graph.constant(np.array(i)), axis=0) for i in range(3))
    if turns is not None:
        q, k = (rotary.onnx_turned(graph, part, turns) for part in (q, k))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Mul", scores, graph.constant(np.array((width // heads) ** -0.5)))
    y = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    y = graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), graph.constant(np.array([0, 0, width])))
    x = graph.add("Add", x, scaled(graph.linear(y, params["proj"]), "scale1"))
    y = graph.linear(graph.norm(x, params["norm2"]), params["mlp1"])
    if ffn == "swiglu":
        hidden, last = params["mlp2"]["kernel"].shape[0], graph.constant(np.array([-1]))
        ends = [graph.constant(np.array([n])) for n in (0, hidden, 2 * hidden)]
        gate = graph.add("Slice", y, ends[0], ends[1], last)
        value = graph.add("Slice", y, ends[1], ends[2], last)
        y = graph.add("Mul", graph.add("Mul", gate, graph.add("Sigmoid", gate)), value)
    else:
        y = graph.add("Gelu", y)
    return graph.add("Add", x, scaled(graph.linear(y, params["mlp2"]), "scale2"))


def onnx_blocks(graph: Graph, x: str, params: Any, heads: int, ffn: str, turns: np.ndarray | None = None) -> list[str]:
    """All blocks in an ONNX graph, arguments as of `onnx_block`; the names of `x` and of what each block gives."""
    found = [x]
    while f"block{len(found)}" in params:
        found.append(onnx_block(graph, found[-1], params[f"block{len(found)}"], heads, ffn, turns))
    return found


def onnx_map(graph: Graph, x: str, params: Any, before: int, grid: tuple[int, int]) -> str:
    """The map [N, D, rows, columns] of the patches behind `before` other tokens, after the last norm."""
    y = graph.norm(_patches(graph, x, before), params)
    shape = graph.constant(np.array([0, len(params["scale"]), *grid]))
    return graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1]), shape)


def _patches(graph: Graph, x: str, before: int) -> str:
    """The tokens behind `before` others."""
    return graph.add("Slice", x, *(graph.constant(np.array([n])) for n in (before, np.iinfo(np.int64).max, 1)))


def onnx_features(graph: Graph, x: str, params: Any, before: int, mean: bool) -> None:
    """The class token after the last norm, or the mean over the patches, which are behind `before` other tokens."""
    if not mean:
        x = graph.add("Gather", x, graph.constant(np.array(0)), axis=1)
        graph.add("Identity", graph.norm(x, params), out="features")
        return
    patches = graph.norm(_patches(graph, x, before), params)
    graph.add("ReduceMean", patches, graph.constant(np.array([1])), keepdims=0, out="features")
