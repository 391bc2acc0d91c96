"""Large and small crops of an image through a network, those of one size in one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import dist, streams
from ssl_jax.augment.view import View
from ssl_jax.methods.ranges import BelowOne
from ssl_jax.models.backbone import Backbone
from ssl_jax.models.parts import apply


def views(large: View, small: View, globals_: int, locals_: int) -> dict[str, View]:
    """Name to recipe of some large ("global") crops and some small ("local") ones."""
    found = {f"global{i + 1}": large for i in range(globals_)}
    return found | {f"local{i + 1}": small for i in range(locals_)}


def keys(rng: jax.Array, recipes: Mapping[str, View], names: Sequence[str], positions: jax.Array) -> jax.Array:
    """One random key a row of a batch in which the crops `names` of an image are neighbours.

    Args:
      rng: the step's key.
      recipes: all views of the method.
      names: of the crops in this batch.
      positions: of the images in the global batch [n].
    """
    found = dist.example_keys(jax.random.fold_in(rng, streams.view(recipes, names[0])), positions)
    return jax.vmap(lambda key: jax.random.split(key, len(names)))(found).reshape(-1)


def stacked(batch: Mapping[str, Any], names: Sequence[str]) -> jax.Array:
    """Crops of one size as one batch [n V, S, S, C]; an image's are neighbours."""
    x = jnp.stack([batch[name] for name in names], 1)
    return x.reshape(-1, *x.shape[2:])


def forward(
    backbone: Backbone,
    params: Any,
    stats: Any,
    x: jax.Array,
    *,
    train: bool,
    drop_path: BelowOne = 0.0,
    keys: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Runs a backbone, with drop path where it has that; arguments and result as of `parts.apply`."""
    if train and drop_path and "drop_path" in backbone.options:
        options |= {"drop_path": drop_path, "keys": keys}
    return apply(backbone, "backbone", params, stats, x, train=train, **options)


def encode(
    backbone: Backbone,
    params: Any,
    stats: Any,
    recipes: Mapping[str, View],
    batch: Mapping[str, Any],
    *,
    rng: jax.Array,
    train: bool,
    drop_path: BelowOne = 0.0,
) -> tuple[jax.Array, Any]:
    """All crops through the backbone.

    Args:
      backbone: f.
      params: of 'backbone'.
      stats: running statistics.
      recipes: name to recipe of the V crops, those of one size together.
      batch: has each crop [n, S, S, C] under its name, and 'position'.
      rng: the step's key, for drop path.
      train: use the statistics of the batch.
      drop_path: of backbones that have it.

    Returns:
      features [n, V, F] in the order of the recipes, and the statistics moved on.
    """
    found = []
    for size in dict.fromkeys(view.size for view in recipes.values()):
        names = [name for name, view in recipes.items() if view.size == size]
        own = keys(rng, recipes, names, batch["position"])
        options: dict[str, Any] = {"train": train, "drop_path": drop_path, "keys": own}
        h, stats = forward(backbone, params, stats, stacked(batch, names), **options)
        found.append(h.reshape(-1, len(names), h.shape[-1]))
    return jnp.concatenate(found, 1), stats


def embed(
    backbone: Backbone,
    head: nn.Module,
    params: Any,
    stats: Any,
    recipes: Mapping[str, View],
    batch: Mapping[str, Any],
    **options: Any,
) -> tuple[jax.Array, jax.Array, Any]:
    """All crops through backbone and projector, each crop with BatchNorm statistics of all; arguments as of `encode`.

    Returns:
      features [V, n, F], embeddings [V, n, D] and the statistics moved on.
    """
    h, stats = encode(backbone, params, stats, recipes, batch, **options)
    z, stats = apply(head, "projector", params, stats, h.reshape(-1, h.shape[-1]), train=options["train"])
    return h.swapaxes(0, 1), z.reshape(*h.shape[:2], -1).swapaxes(0, 1), stats
