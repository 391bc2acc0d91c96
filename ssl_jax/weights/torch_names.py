"""torchvision's and timm's names for the parameters of our networks, and how torch lays them out."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.resnet import DEPTHS, ResNet
from ssl_jax.models.vit import SIZES, ViT, resized, sincos
from ssl_jax.runtime.errors import UserError

NAMES = ("torchvision", "timm")


class Pair(NamedTuple):
    """One array under both names."""

    ours: str  # path in {'params', 'stats'}, joined by slashes
    theirs: str  # key of the state dict
    kind: str = "plain"  # how it lies in memory: plain, conv, dense or patch


def pairs(module: nn.Module, names: str) -> list[Pair]:
    """All arrays of a network, in its order.

    Args:
      module: a `ResNet` with BatchNorm, or a `ViT`.
      names: 'torchvision' or 'timm'; the same for ResNets.

    Raises:
      UserError: for another network, which has no namesake there.
    """
    if isinstance(module, ResNet) and module.norm == "batch":
        return list(_resnet(module))
    if isinstance(module, ViT):
        return list(_timm_vit(module) if names == "timm" else _torchvision_vit(module))
    kind = f"{type(module).__name__} with norm '{getattr(module, 'norm', '')}'"
    raise UserError(f"A {kind} has no namesake in torchvision and timm: use the format npz, safetensors or onnx.")


def _resnet(module: ResNet) -> Iterator[Pair]:
    yield from _conv_norm("stem", "conv1", "bn1")
    blocks, bottleneck = DEPTHS[module.depth]
    for i, count in enumerate(blocks):
        for j in range(count):
            ours, theirs = f"stage{i + 1}_block{j + 1}", f"layer{i + 1}.{j}"
            for k in range(1, 4 if bottleneck else 3):
                yield from _conv_norm(f"{ours}/conv{k}", f"{theirs}.conv{k}", f"{theirs}.bn{k}")
            if j == 0 and (i > 0 or bottleneck):
                yield from _conv_norm(f"{ours}/shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")


def _conv_norm(ours: str, conv: str, norm: str) -> Iterator[Pair]:
    yield Pair(f"params/{ours}/kernel", f"{conv}.weight", "conv")
    yield Pair(f"params/{ours}_norm/batch/scale", f"{norm}.weight")
    yield Pair(f"params/{ours}_norm/batch/bias", f"{norm}.bias")
    yield Pair(f"stats/{ours}_norm/batch/mean", f"{norm}.running_mean")
    yield Pair(f"stats/{ours}_norm/batch/var", f"{norm}.running_var")


def _timm_vit(module: ViT) -> Iterator[Pair]:
    yield Pair("params/token", "cls_token")
    yield Pair("params/positions", "pos_embed")
    yield from _linear("patch", "patch_embed.proj", "patch")
    for i in range(SIZES[module.size][1]):
        ours, theirs = f"block{i + 1}", f"blocks.{i}"
        yield from _norm(f"{ours}/norm1", f"{theirs}.norm1")
        yield from _linear(f"{ours}/qkv", f"{theirs}.attn.qkv")
        yield from _linear(f"{ours}/proj", f"{theirs}.attn.proj")
        yield from _norm(f"{ours}/norm2", f"{theirs}.norm2")
        yield from _linear(f"{ours}/mlp1", f"{theirs}.mlp.fc1")
        yield from _linear(f"{ours}/mlp2", f"{theirs}.mlp.fc2")
    yield from _norm("norm", "norm")


def _torchvision_vit(module: ViT) -> Iterator[Pair]:
    yield Pair("params/token", "class_token")
    yield Pair("params/positions", "encoder.pos_embedding")
    yield from _linear("patch", "conv_proj", "patch")
    for i in range(SIZES[module.size][1]):
        ours, theirs = f"block{i + 1}", f"encoder.layers.encoder_layer_{i}"
        yield from _norm(f"{ours}/norm1", f"{theirs}.ln_1")
        yield Pair(f"params/{ours}/qkv/kernel", f"{theirs}.self_attention.in_proj_weight", "dense")
        yield Pair(f"params/{ours}/qkv/bias", f"{theirs}.self_attention.in_proj_bias")
        yield from _linear(f"{ours}/proj", f"{theirs}.self_attention.out_proj")
        yield from _norm(f"{ours}/norm2", f"{theirs}.ln_2")
        yield from _linear(f"{ours}/mlp1", f"{theirs}.mlp.0")
        yield from _linear(f"{ours}/mlp2", f"{theirs}.mlp.3")
    yield from _norm("norm", "encoder.ln")


def _linear(ours: str, theirs: str, kind: str = "dense") -> Iterator[Pair]:
    yield Pair(f"params/{ours}/kernel", f"{theirs}.weight", kind)
    yield Pair(f"params/{ours}/bias", f"{theirs}.bias")


def _norm(ours: str, theirs: str) -> Iterator[Pair]:
    yield Pair(f"params/{ours}/scale", f"{theirs}.weight")
    yield Pair(f"params/{ours}/bias", f"{theirs}.bias")


def to_torch(params: Any, stats: Any, module: nn.Module, names: str, size: int) -> dict[str, np.ndarray]:
    """A network's parameters and running statistics as a state dict, complete for `load_state_dict(strict=True)`.

    Args:
      params: of the network.
      stats: its running statistics.
      module: the network.
      names: 'torchvision' or 'timm'.
      size: side of the images, pixels; a transformer's positions are those of its grid of patches.

    Returns:
      name to array, float32; `num_batches_tracked` int64.

    Raises:
      UserError: for a network that has no namesake there.
    """
    arrays = flax.traverse_util.flatten_dict({"params": params, "stats": stats}, sep="/")
    if isinstance(module, ViT):
        arrays["params/positions"] = positions(params, module, size)
    state = {}
    for ours, theirs, kind in pairs(module, names):
        state[theirs] = _laid_out(np.asarray(arrays[ours], np.float32), kind, module)
        if theirs.endswith(".running_var"):
            state[theirs.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def positions(params: Any, module: ViT, size: int) -> np.ndarray:
    """A transformer's positions [1, 1 + patches, D] for images of `size` pixels, learned or fixed."""
    grid = (size // module.patch, size // module.patch)
    if module.positions == "sincos":
        return sincos(grid, SIZES[module.size][0])
    return np.asarray(resized(jnp.asarray(params["positions"]), grid))


def _laid_out(x: np.ndarray, kind: str, module: Any) -> np.ndarray:
    """One of our arrays as torch has it."""
    if kind == "conv":  # [k, k, C, K] to [K, C, k, k]
        return x.transpose(3, 2, 0, 1)
    if kind == "dense":
        return x.T
    if kind == "patch":  # [rows columns channels, D] to [D, C, p, p]
        return x.reshape(module.patch, module.patch, -1, x.shape[1]).transpose(3, 2, 0, 1)
    return x


def _taken_over(x: np.ndarray, kind: str) -> np.ndarray:
    """One of torch's arrays as we have it."""
    if kind == "conv":
        return x.transpose(2, 3, 1, 0)
    if kind == "dense":
        return x.T
    if kind == "patch":
        return x.transpose(2, 3, 1, 0).reshape(-1, len(x))
    return x


def from_torch(state: dict[str, np.ndarray], module: nn.Module) -> tuple[Any, Any]:
    """Parameters and running statistics of our network from a backbone's state dict.

    Args:
      state: names of torchvision or timm, without prefix and without heads.
      module: the network that they belong to, of learned positions if it is a transformer.

    Returns:
      parameters and running statistics, float32.

    Raises:
      UserError: if a key is missing, or not the network's, or its array has another shape; names it.
    """
    names = "torchvision" if "class_token" in state else "timm"
    state = {_renamed(k): v for k, v in state.items() if not k.endswith(".num_batches_tracked")}
    wanted = pairs(module, names)
    missing = [p.theirs for p in wanted if p.theirs not in state]
    unexpected = sorted(set(state) - {p.theirs for p in wanted})
    for keys, words in ((missing, "lack"), (unexpected, "also hold")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(
                f"The weights {words} {', '.join(keys[:3])}{more}, so they are not those of a {_title(module)}: give "
                "the architecture that they have."
            )
    flat = {p.ours: _taken_over(np.asarray(state[p.theirs], np.float32), p.kind) for p in wanted}
    _check_shapes(flat, wanted, state, module)
    nested = flax.traverse_util.unflatten_dict(flat, sep="/")
    return nested["params"], nested.get("stats", {})


def _renamed(key: str) -> str:
    """The weights that torchvision offers name the layers of a transformer's perceptron as its first version did."""
    return key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")


def _title(module: Any) -> str:
    return module.size if isinstance(module, ViT) else module.depth


def _check_shapes(flat: dict[str, np.ndarray], wanted: list[Pair], state: dict[str, np.ndarray], module: Any) -> None:
    if isinstance(module, ViT):
        side = round((flat["params/positions"].shape[-2] - 1) ** 0.5) * module.patch
        channels = flat["params/patch/kernel"].shape[0] // module.patch**2
    else:
        side, channels = 32, flat["params/stem/kernel"].shape[2]
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    tree = {"params": made["params"], "stats": made.get("batch_stats", {})}
    shapes = {k: v.shape for k, v in flax.traverse_util.flatten_dict(tree, sep="/").items()}
    for pair in wanted:
        if flat[pair.ours].shape != shapes[pair.ours]:
            raise UserError(
                f"{pair.theirs} has shape {state[pair.theirs].shape}, which is not that of a {_title(module)}: give "
                "the architecture that the weights have."
            )
