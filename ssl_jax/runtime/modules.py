"""Modules: finds the class that one defines, which may live outside the package, and makes one answer to a call."""

from collections.abc import Callable
import importlib
import sys
import types
from typing import Any

from ssl_jax.runtime import platforms
from ssl_jax.runtime.errors import UserError


def subclass(base: type[Any], path: str, field: str) -> type[Any]:
    """The subclass of `base` that a module defines; the last one of several.

    Args:
      base: a class of the package.
      path: dotted path of the module.
      field: of the config that names the module, for the message.

    Raises:
      UserError: if there is no such module, or it defines no such class.
    """
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise UserError(
            f"{field} is '{path}', and there is no module {path} on Python's path: start in the folder that has it, "
            "install it, or add its folder to PYTHONPATH."
        ) from error
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    classes = [c for c in own if issubclass(c, base)]
    if not classes:
        raise UserError(f"{field} is '{path}', but {path} defines no subclass of ssl_jax's {base.__name__}.")
    return classes[-1]


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Makes a module answer to a call, so that `ssl_jax.train(...)` is `ssl_jax.train.train(...)`.

    Args:
      name: of the module.
      function: what a call of the module calls.
    """

    class Answering(types.ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            platforms.without_absent_tpu()
            return function(*args, **kwargs)

    module = sys.modules[name]
    module.__class__ = Answering
