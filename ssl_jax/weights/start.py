"""The backbone that training starts from, instead of fresh weights."""

from typing import Any

from flax.traverse_util import flatten_dict
import jax

from ssl_jax import weights
from ssl_jax.methods.contract import Variables
from ssl_jax.runtime.errors import UserError

_SHOWN = 4  # names in a message


def variables(path: str, wanted: Variables) -> tuple[Variables, str]:
    """Loads a backbone that must be the one that the run trains, array by array.

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
    own, given = (_flat(tree) for tree in (wanted, found.variables))
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
    return found.variables, f"{path} ({method}{'' if step is None else f', update {step}'})"


def _flat(tree: Variables) -> dict[str, Any]:
    """Arrays by path; parameters, whose names say most, come first."""
    return {name: x for part in ("params", "batch_stats") for name, x in flatten_dict(tree[part], sep="/").items()}


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def shapes(method: Any, state: Any) -> Variables:
    """What `variables` wants, of a method and the shapes of its state as `TrainState` holds them."""
    return jax.eval_shape(method.variables, state.params, state.state)
