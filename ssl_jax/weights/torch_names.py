"""A network's arrays under torchvision's and timm's names, and as torch lays them out."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.backbone import Backbone, Pair
from ssl_jax.models.transformer_exchange import REGISTERS
from ssl_jax.runtime.errors import UserError


def to_torch(params: Any, stats: Any, module: Backbone, names: str, size: int) -> dict[str, np.ndarray]:
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
    pairs = module.torch_pairs(names)
    arrays = flax.traverse_util.flatten_dict({"params": module.torch_params(params, size), "stats": stats}, sep="/")
    state = {}
    for ours, theirs, kind in pairs:
        state[theirs] = _laid_out(np.asarray(arrays[ours], np.float32), kind, module)
        if theirs.endswith(".running_var"):
            state[theirs.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


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


def from_torch(state: dict[str, np.ndarray], module: Backbone) -> tuple[Any, Any]:
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
    wanted = module.torch_pairs(names)
    missing = [p.theirs for p in wanted if p.theirs not in state]
    unexpected = sorted(set(state) - {p.theirs for p in wanted})
    for keys, words in ((missing, "lack"), (unexpected, "also hold")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(
                f"The weights {words} {', '.join(keys[:3])}{more}, so they are not those of a {module.title}: give "
                "the architecture that they have."
            )
    flat = {p.ours: _taken_over(np.asarray(state[p.theirs], np.float32), p.kind) for p in wanted}
    nested = flax.traverse_util.unflatten_dict(flat, sep="/")
    params, stats = module.taken_over(nested["params"]), nested.get("stats", {})
    _check_shapes(params, stats, wanted, state, module)
    return params, stats


# Other names for the same: torchvision's offered weights are of its first version; DINOv2 and DINOv3 have their own.
_SYNONYMS = {
    ".mlp.linear_1.": ".mlp.0.",
    ".mlp.linear_2.": ".mlp.3.",
    ".mlp.w12.": ".mlp.fc1.",
    ".mlp.w3.": ".mlp.fc2.",
    **dict.fromkeys(REGISTERS[1:], REGISTERS[0]),
}


def _renamed(key: str) -> str:
    for theirs, usual in _SYNONYMS.items():
        key = key.replace(theirs, usual)
    return key


def _check_shapes(params: Any, stats: Any, wanted: list[Pair], state: dict[str, np.ndarray], module: Backbone) -> None:
    side, channels = module.usual_view(params).size, module.channels(params)
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    found, shapes = (
        {k: v.shape for k, v in flax.traverse_util.flatten_dict({"params": p, "stats": s}, sep="/").items()}
        for p, s in ((params, stats), (made["params"], made.get("batch_stats", {})))
    )
    for pair in wanted:
        if found[pair.ours] != shapes[pair.ours]:
            raise UserError(
                f"{pair.theirs} has shape {state[pair.theirs].shape}, which is not that of a {module.title}: give "
                "the architecture that the weights have."
            )
