"""Other projects' names of the same networks, brought to torchvision's (ResNets) and timm's (transformers)."""

from collections.abc import Mapping
import re

import numpy as np

# Hugging Face's ResNet and ViT: what of a name becomes what; digits are counted from 0 there.
_HF_RESNET = (
    (r"embedder\.embedder\.convolution\.", "conv1."),
    (r"embedder\.embedder\.normalization\.", "bn1."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.", r"layer<\1>.\2.downsample.0."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.", r"layer<\1>.\2.downsample.1."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.", r"layer<\1>.\2.conv<\3>."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.", r"layer<\1>.\2.bn<\3>."),
)
_HF_VIT = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
)
_BIAS_MASK = "attn.qkv.bias_mask"
_QKV = re.compile(r"(.*attn\.)query(\..*)")


def usual(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays under torchvision's or timm's names, behind the prefixes that they had.

    Args:
      arrays: of a checkpoint, by name.
    """
    names = list(arrays)
    if any(name.endswith("embedder.embedder.convolution.weight") for name in names):
        return {_renamed(name, _HF_RESNET): x for name, x in arrays.items()}
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names):
        return _joined({_renamed(name, _HF_VIT): x for name, x in arrays.items()})
    if any(name.endswith(_BIAS_MASK) for name in names):
        return _masked(arrays)
    return _of_sequential(arrays)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, becomes in rules:
        match = re.search(rf"(^|\.){pattern}", name)
        if match:
            return f"{name[: match.start()]}{match[1]}{_expanded(match, becomes)}{name[match.end() :]}"
    return name


def _expanded(match: re.Match[str], template: str) -> str:
    """A template whose groups are counted behind the one that holds the prefix; those in <> are one higher."""
    higher = re.sub(r"<\\(\d)>", lambda m: str(int(match[int(m[1]) + 1]) + 1), template)
    return re.sub(r"\\(\d)", lambda m: match[int(m[1]) + 1], higher)


def _joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Query, key and value of each block as one array."""
    found = {}
    for name, x in arrays.items():
        match = _QKV.fullmatch(name)
        if match:
            parts = [arrays[f"{match[1]}{part}{match[2]}"] for part in ("query", "key", "value")]
            found[f"{match[1]}qkv{match[2]}"] = np.concatenate(parts)
        elif not re.search(r"attn\.(key|value)\.", name):
            found[name] = x
    return found


def _masked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """DINOv3's, whose keys have no bias: the mask that says so is applied."""
    found = {name: x for name, x in arrays.items() if not name.endswith(_BIAS_MASK)}
    for name in arrays.keys() - found.keys():
        bias = name.removesuffix("_mask")
        found[bias] = np.where(arrays[name] == 0, 0, arrays[bias]).astype(arrays[bias].dtype)
    return found


def _of_sequential(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ResNet whose parts were put into an `nn.Sequential` and are numbered: lightly's, and others'."""
    found = dict(arrays)
    for first in [name for name, x in arrays.items() if re.search(r"(^|\.)0\.weight$", name) and np.ndim(x) == 4]:
        root = first.removesuffix("0.weight")
        # Torchvision's has ReLU and max-pooling between the stem and the stages, lightly's own for CIFAR has not.
        start = next((n for n in (2, 3, 4) if f"{root}{n}.0.conv1.weight" in arrays), None)
        if start is None or f"{root}1.running_mean" not in arrays:
            continue
        parts = {"0": "conv1", "1": "bn1"} | {str(start + i): f"layer{i + 1}" for i in range(4)}
        for name in [name for name in arrays if name.startswith(root)]:
            number, _, rest = name.removeprefix(root).partition(".")
            if number in parts:
                found[f"{root}{parts[number]}.{rest}"] = found.pop(name)
    return found
