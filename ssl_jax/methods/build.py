"""Finds a method by its name, and builds it from its config."""

import dataclasses
import functools
import pathlib
from typing import Any

from ssl_jax.augment.view import View
from ssl_jax.methods.contract import Method
from ssl_jax.models.backbone import Backbone
from ssl_jax.runtime.errors import UserError, nearest
from ssl_jax.runtime.modules import subclass

SHARED = "shared"  # the folder that holds no method


@functools.cache
def _files() -> dict[str, str]:
    """Name of each method to its module."""
    folder = pathlib.Path(__file__).parent
    files = (p for p in folder.glob("*/*.py") if p.stem != "__init__" and p.parent.name != SHARED)
    return {p.stem: f"ssl_jax.methods.{p.parent.name}.{p.stem}" for p in sorted(files, key=lambda p: p.stem)}


def names() -> list[str]:
    """Names of all methods that the package has: the files in the folders beside this one."""
    return list(_files())


def families() -> dict[str, list[str]]:
    """Names of the methods of each family, which are the folders beside this file."""
    found: dict[str, list[str]] = {}
    for name, module in _files().items():
        found.setdefault(module.split(".")[2], []).append(name)
    return dict(sorted(found.items()))


def find(name: str) -> type[Method]:
    """Returns the class of the method called `name`.

    Args:
      name: a file in one of the folders beside this one, such as "byol", or the dotted path of a module anywhere,
        such as "my_project.my_method". The module defines one subclass of `Method`, or the last one is taken.

    Raises:
      UserError: if there is no such method, naming the nearest.
    """
    if name not in names() and "." not in name:
        raise UserError(
            f"There is no method '{name}' in ssl_jax/methods. {nearest(name, names())} "
            "A method of your own is named by its module's dotted path, such as my_project.my_method."
        )
    return subclass(Method, _files().get(name, name), "config.method.name")


def method(config: Any, backbone: Backbone) -> Method:
    """Makes the method that `config` (the config's `method` part) describes, around a backbone.

    Raises:
      UserError: for an unknown method or field.
    """
    fields = {k: v for k, v in config.items() if k != "name"}
    cls = find(config["name"])
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"config.method.{name} is no field of {config['name']}. {nearest(name, known)}")
        if isinstance(known[name].default, View):
            fields[name] = View(**{k: _tuples(v) for k, v in value.items()})
        else:
            fields[name] = _nested(value, backbone)
    return cls(backbone=backbone, **fields)


def _nested(value: Any, backbone: Backbone) -> Any:
    """A field's value: a mapping with a 'name' is a method on the same backbone, any other is one of such values."""
    if not hasattr(value, "items"):
        return _tuples(value)
    return method(value, backbone) if "name" in value else {k: _nested(v, backbone) for k, v in value.items()}


def _tuples(value: Any) -> Any:
    """Lists to tuples: a config that was stored as JSON has lists, and fields must be hashable."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
