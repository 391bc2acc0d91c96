"""Backbones and heads, in Flax linen."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.errors import UserError, nearest
from ssl_jax.models.conv import INITS
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.resnet import DEPTHS, ResNet


def backbone(config: Any) -> nn.Module:
    """Builds the backbone that `config.model` describes.

    Args:
      config: the fields of `configs/common.py` under `model`.

    Returns:
      a module `(images [B, H, W, C], *, train, stage=None) -> features [B, D]` with a property `stages`.

    Raises:
      UserError: for an unknown name, norm or stem.
    """
    _one_of("norm", config.norm, ("batch", "group", "layer", "none"))
    _one_of("stem", config.stem, ("imagenet", "small"))
    _one_of("name", config.name, ("convnet", *DEPTHS))
    _one_of("dtype", config.dtype, ("float32", "bfloat16"))
    _one_of("conv_init", config.conv_init, tuple(INITS))
    dtype = jnp.dtype(config.dtype)
    norm = (config.norm, config.bn_groups)
    if config.name == "convnet":
        return ConvNet(config.width, *norm, config.conv_init, dtype)
    return ResNet(config.name, config.width, config.stem, *norm, config.zero_init, config.conv_init, dtype)


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"config.model.{field} is '{value}', which is not known. {nearest(value, known)}")
