"""Checkpoints of other projects: finds the backbone among their keys and takes it over.

MoCo, DINO, Barlow Twins, SwAV, VICReg and MAE name the same torchvision ResNet or timm transformer, behind prefixes
that tell the network from its target and from what wraps it, and beside heads.
"""

import argparse
import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from ssl_jax import models
from ssl_jax.methods.contract import Method
from ssl_jax.models.vit import ViT
from ssl_jax.models.vit_pooled import PooledViT
from ssl_jax.models.vit_rotary import RotaryViT
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import Backbone, layouts, torch_names
from ssl_jax.weights.arrays_file import read

# What tells the beginning of a backbone: torchvision's ResNet, timm's transformer, torchvision's.
_ANCHORS = ("conv1.weight", "patch_embed.proj.weight", "conv_proj.weight")
# Where a checkpoint holds two networks, the one that its authors evaluate: MoCo, MoCo v3, DINO, byol-pytorch.
_EVALUATED = ("encoder_q", "base_encoder", "teacher", "online_encoder")
# And those beside it that follow it: solo-learn, lightly, mmselfsup.
_FOLLOWERS = ("momentum_backbone", "backbone_momentum", "target_backbone", "encoder_k", "target_encoder")
# What lies beside a backbone without a prefix of its own.
_HEADS = (
    *(
        "classifier",
        "pooler",
        "fc",
        "head",
        "heads",
        "projection_head",
        "prototypes",
        "projector",
        "predictor",
        "mask_token",
        "local_cls_norm",
        "rope_embed",
    ),
    *("decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred"),
)


def backbone(
    path: pathlib.Path,
    arch: str,
    view: dict[str, Any],
    *,
    heads: int = 0,
    linear_stem: bool = False,
    prefix: str | None = None,
) -> tuple[Backbone, list[str]]:
    """Takes over the backbone of a checkpoint.

    Args:
      path: a .safetensors, .npz, .pth, .pt or .tar file.
      arch: name of a backbone, as in `config.model.name`; width, stem, patch and channels follow from the arrays.
      view: fields of the view of images that are not those of the network's `usual_view`.
      heads: attention heads of a transformer; 0 for the size's own. No array tells them.
      linear_stem: whether a 3x3 stem has no ReLU (lightly's CIFAR benchmark). No array tells it.
      prefix: of the network's names, where the file holds several; None: found.

    Returns:
      the backbone, and the names of what was left behind.

    Raises:
      UserError: if the file cannot be read, or does not hold this architecture; names the key.
    """
    kind = models.find(arch, "--arch")
    arrays = layouts.usual(arrays_of(path))
    root = find_root(arrays, prefix)
    inside = {k.removeprefix(root): v for k, v in arrays.items() if k.startswith(root)}
    state = {k: v for k, v in inside.items() if k.split(".")[0] not in _HEADS}
    dropped = [k for k in arrays if not k.startswith(root) or k.removeprefix(root) not in state]
    if arch == "vit_small" and not heads and set(root.split(".")) & {"base_encoder", "momentum_encoder"}:
        heads = 12  # MoCo v3's ViT-S has twice the usual heads (sec. 5)
    if kind is ViT:
        kind = next((other for other in (PooledViT, RotaryViT) if other.suits(inside)), kind)
    module = kind.from_torch(arch, inside, heads=heads, linear_stem=linear_stem)
    params, stats = torch_names.from_torch(state, module)
    origin = {"imported from": path.name, "architecture": arch, "prefix": root}
    seen = dataclasses.replace(module.usual_view(params), **view)
    channels = module.channels(params)
    if len(seen.mean) not in (1, channels) or len(seen.std) not in (1, channels):
        raise UserError(
            f"The first layer of {path.name} takes {channels} channel(s): say how they are normalised, with --mean and "
            f"--std of {channels} value(s) each, or of one."
        )
    seen.check("view", seen.size, seen.size, channels)
    return Backbone(Method(module), params, stats, seen, origin), dropped


def arrays_of(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint; names of nested dicts are joined by dots."""
    if path.suffix not in (".pth", ".pt", ".tar"):
        if not path.is_file():
            raise UserError(f"There is no file {path}: give --import the path of a checkpoint.")
        return {k.replace("/", "."): v for k, v in read(path)[0].items()}
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"Reading {path.name} needs PyTorch, which is not installed: pip install torch, or convert it where torch "
            "is, with safetensors.torch.save_file, to a .safetensors file."
        ) from error
    try:
        # Weights only, since a pickle may run anything; some authors store their command line beside them.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a missing, damaged or refused file makes torch raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read by torch ({type(error).__name__}: {reason}).") from error
    return _flat(found, "")


def _flat(found: Any, prefix: str) -> dict[str, np.ndarray]:
    if isinstance(found, dict):
        parts = [_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in found.items()]
        return {k: v for part in parts for k, v in part.items()}
    if not hasattr(found, "detach"):
        return {}  # numbers, names and command lines beside the weights
    return {prefix: found.detach().float().numpy()}


def find_root(names: Any, prefix: str | None = None) -> str:
    """The prefix behind which the backbone's keys lie, such as 'module.encoder_q.'.

    Args:
      names: all keys.
      prefix: what the user says; the keys may have more in front of the network.

    Raises:
      UserError: if there is no backbone, or several and none that the authors evaluate.
    """
    anchors = [(name, a) for name in names for a in _ANCHORS if name == a or name.endswith("." + a)]
    # A residual block has a conv1 as well.
    roots = sorted({name.removesuffix(a) for name, a in anchors if not _in_block(name.removesuffix(a))})
    # I-JEPA's authors evaluate what the encoder is to predict.
    follows = any(".predictor_embed." in f".{name}" for name in names)
    followers, wanted = set(_FOLLOWERS), set(_EVALUATED)
    if follows:
        followers, wanted = followers - {"target_encoder"}, wanted | {"target_encoder"}
    if prefix is not None:
        roots = [r for r in roots if f".{r}".startswith(f".{prefix.rstrip('.')}.") or r == prefix]
    else:
        roots = [r for r in roots if not set(r.split(".")) & followers] or roots
    evaluated = [r for r in roots if set(r.split(".")) & wanted]
    chosen = roots if len(roots) == 1 else evaluated
    if len(chosen) != 1:
        keys = ", ".join(sorted(names)[:3])
        found = f"several ({', '.join(roots)})" if roots else f"none (no {' or '.join(_ANCHORS)}, but {keys} ...)"
        raise UserError(f"A checkpoint should hold one backbone; this one has {found}: name it with --prefix.")
    return chosen[0]


def _in_block(prefix: str) -> bool:
    """Whether a prefix is that of a block of a ResNet, such as 'layer1.0.'."""
    return re.search(r"(^|\.)layer\d+\.\d+\.$", prefix) is not None
