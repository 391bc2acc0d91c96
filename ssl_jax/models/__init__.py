"""Backbones and heads, in Flax linen."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.conv import INITS
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.resnet import DEPTHS, ResNet
from ssl_jax.models.vit import INITS as VIT_INITS
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.runtime.errors import UserError, nearest


def backbone(config: Any) -> nn.Module:
    """Builds the backbone that `config.model` describes.

    Args:
      config: the fields of `configs/common.py` under `model`.

    Returns:
      a module `(images [B, H, W, C], *, train, stage=None, pool=True) -> features [B, D]`, or without `pool` the map
      [B, h, w, D], with a property `stages`.

    Raises:
      UserError: for an unknown name, or a field without meaning.
    """
    _one_of("norm", config.norm, ("batch", "group", "layer", "none"))
    _one_of("stem", config.stem, ("imagenet", "small", "small_linear"))
    _one_of("name", config.name, ("convnet", *DEPTHS, *SIZES))
    _one_of("dtype", config.dtype, ("float32", "bfloat16"))
    _one_of("conv_init", config.conv_init, tuple(INITS))
    dtype = jnp.dtype(config.dtype)
    norm = (config.norm, config.bn_groups)
    if config.name == "convnet":
        return ConvNet(config.width, *norm, config.conv_init, dtype)
    if config.name in SIZES:
        return _vit(config, dtype)
    return ResNet(
        config.name, config.width, config.stem, *norm, config.zero_init, config.conv_init, dtype, config.remat
    )


def _vit(config: Any, dtype: Any) -> ViT:
    _one_of("positions", config.positions, ("learned", "sincos"))
    _one_of("vit_init", config.vit_init, tuple(VIT_INITS))
    width, _, heads = SIZES[config.name]
    heads = config.heads or heads
    if width % heads:
        raise UserError(f"config.model.heads is {heads}, which does not divide the {width} channels of {config.name}.")
    return ViT(
        config.name,
        config.patch,
        heads,
        config.positions,
        config.vit_init,
        config.fixed_patch,
        config.bn_groups,
        dtype,
        config.remat,
    )


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"config.model.{field} is '{value}', which is not known. {nearest(value, known)}")
