"""What an optimiser does part by part of a network: clipping of gradients, and learning rates of layers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.runtime.errors import UserError


def clip_each(limit: float) -> optax.GradientTransformation:
    """Scales down each parameter's gradient whose norm exceeds `limit`, alone (DINO's `clip_gradients`)."""

    def clip(g):
        return g * jnp.minimum(limit / (jnp.linalg.norm(g.ravel()) + 1e-6), 1.0)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def clip_parts(limit: float) -> optax.GradientTransformation:
    """Scales down the gradient of each part of the network whose norm exceeds `limit` (DINOv2: of each sub-network)."""

    def clip(part):
        return jax.tree.map(lambda g: g * jnp.minimum(limit / (optax.tree.norm(part) + 1e-6), 1.0), part)

    return optax.stateless(lambda updates, params: {name: clip(part) for name, part in updates.items()})


def layer_rates(tree: Any, decay: float, patch: float) -> Any:
    """Factors of the learning rate: those of a vision transformer's layers fall towards its input (Bao et al. 2022).

    Args:
      tree: like the parameters: those of the 'backbone' and of other parts, such as heads.
      decay: factor from one block to the one before. What precedes the blocks counts as block 0, with a mask token;
        the last norm and all heads have 1.
      patch: a further factor of the projection of patches.

    Returns:
      a tree of floats.

    Raises:
      UserError: the backbone has no blocks.
    """
    names = [name for name in tree["backbone"] if name.startswith("block")]
    if not names:
        raise UserError("config.optim.default.layer_decay is of vision transformers: set it to 1 for other backbones.")

    def factor(part: str, name: str) -> float:
        if part == "mask_token" or (part == "backbone" and name in ("patch", "token", "positions", "registers")):
            layer = 0
        else:
            inside = part == "backbone" and name in names
            layer = int(name.removeprefix("block")) if inside else len(names) + 1
        return decay ** (len(names) + 1 - layer) * (patch if (part, name) == ("backbone", "patch") else 1.0)

    def of(path: Any, _: Any) -> float:
        keys = [key.key for key in path]
        return factor(keys[0], keys[1] if len(keys) > 1 else "")

    return jax.tree_util.tree_map_with_path(of, tree)


def with_parts(config: Any, labels: Any, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser with what 'default' says of all groups: clipping of each part, and rates of a ViT's layers."""
    default = config.get("default", {})
    chain = [clip_parts(default.clip_parts)] if default.get("clip_parts") else []
    chain.append(optimizer)
    decay, patch = default.get("layer_decay", 1.0), default.get("patch_rate", 1.0)
    if (decay, patch) != (1.0, 1.0):
        rates = layer_rates(labels, decay, patch)
        chain.append(optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, rates)))
    return optax.chain(*chain) if len(chain) > 1 else optimizer
