"""Multi-crop: two large and some small crops of an image (SwAV, sec. 3.3), for the methods that cluster them."""

from collections.abc import Sequence
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.augment.view import View
from ssl_jax.models.parts import apply


def views(large: View, small: View, small_crops: int) -> dict[str, View]:
    """Name to recipe of two large crops and some small ones."""
    return {"large1": large, "large2": large} | {f"small{i + 1}": small for i in range(small_crops)}


def check(large: View, small: View, small_crops: int, size: tuple[int, int, int]) -> None:
    """Refuses, with a `UserError`, recipes without meaning for images of `size` (height, width, channels)."""
    large.check("large", *size)
    if small_crops:
        small.check("small", *size)


def embed(
    backbone: nn.Module,
    head: nn.Module,
    params: Any,
    stats: Any,
    crops: Sequence[jax.Array],
    *,
    train: bool,
    concat: bool = True,
) -> tuple[jax.Array, jax.Array, Any]:
    """Crops through the backbone, one batch for each resolution, then all of them through the head (sec. 3.3).

    Args:
      backbone: f.
      head: the projector.
      params: of 'backbone' and 'projector'.
      stats: running statistics of both.
      crops: V of [n, S, S, C], those of one size together.
      train: use the statistics of the batch.
      concat: False: each crop through both by itself, so that BatchNorm sees it alone.

    Returns:
      features [n, V, F], embeddings of length one [n, V, D] and the statistics moved on.
    """
    if not concat:
        features, embeddings = [], []
        for crop in crops:
            h, z, stats = embed(backbone, head, params, stats, [crop], train=train)
            features.append(h)
            embeddings.append(z)
        return jnp.concatenate(features, 1), jnp.concatenate(embeddings, 1), stats
    parts = []
    for _, same in itertools.groupby(crops, key=lambda x: x.shape[1]):
        # Crops of an image are neighbours, so that BatchNorm groups of the global batch hold whole images.
        x = jnp.stack(list(same), 1)
        h, stats = apply(backbone, "backbone", params, stats, x.reshape(-1, *x.shape[2:]), train=train)
        parts.append(h.reshape(*x.shape[:2], -1))
    h = jnp.concatenate(parts, 1)
    z, stats = apply(head, "projector", params, stats, h.reshape(-1, h.shape[-1]), train=train)
    return h, losses.l2_normalize(z).reshape(*h.shape[:2], -1), stats
