"""The backbone that training starts from, instead of fresh weights."""

from typing import Any

from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import weights
from ssl_jax.methods.contract import Variables
from ssl_jax.models.patches import resized
from ssl_jax.runtime.errors import UserError

_SHOWN = 4  # names in a message


def variables(path: str, wanted: Variables) -> tuple[Variables, str]:
    """Loads a backbone that must be the one that the run trains, array by array.

    Only a transformer's learned positions may be of another grid of patches: they are resized.

    Args:
      path: workdir or file, as for `weights.load`.
      wanted: shapes of the run's 'params' and 'batch_stats'.

    Returns:
      the variables, and in words where they are from.

    Raises:
      UserError: there is none, or it is another network; the message names what is missing, left over or of another
        shape.
    """
    found = weights.load(path)
    given_variables, resized_from = _on_grid(found.variables, wanted)
    own, given = (_flat(tree) for tree in (wanted, given_variables))
    problems = {
        "missing there": [name for name in own if name not in given],
        "left over": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {list(given[name].shape)}, wanted {list(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    }
    said = [f"{_listed(names)} {what}" for what, names in problems.items() if names]
    if said:
        raise UserError(
            f"config.init_from is {path}, whose backbone is not the one of config.model: {'; '.join(said)}. Set "
            "config.model to what those weights are of."
        )
    method, step = found.origin.get("method", "an imported checkpoint"), found.origin.get("step")
    return given_variables, f"{path} ({method}{'' if step is None else f', update {step}'}{resized_from})"


def _on_grid(given: Variables, wanted: Variables) -> tuple[Variables, str]:
    """Positions for the grid of patches that is wanted, and in words what was resized, if anything was."""
    before, after = (tree["params"].get("positions") for tree in (given, wanted))
    if before is None or after is None or before.shape == after.shape:
        return given, ""
    sides = [round((x.shape[1] - 1) ** 0.5) for x in (before, after)]
    if before.shape[2] != after.shape[2] or any(
        s * s + 1 != x.shape[1] for s, x in zip(sides, (before, after), strict=True)
    ):
        return given, ""
    positions = np.asarray(resized(jnp.asarray(before), (sides[1], sides[1])))
    words = f", positions of {sides[0]}x{sides[0]} patches resized to {sides[1]}x{sides[1]}"
    return {**given, "params": {**given["params"], "positions": positions}}, words


def _flat(tree: Variables) -> dict[str, Any]:
    """Arrays by path; parameters, whose names say most, come first."""
    return {name: x for part in ("params", "batch_stats") for name, x in flatten_dict(tree[part], sep="/").items()}


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def shapes(method: Any, state: Any) -> Variables:
    """What `variables` wants, of a method and the shapes of its state as `TrainState` holds them."""
    return jax.eval_shape(method.variables, state.params, state.state)
