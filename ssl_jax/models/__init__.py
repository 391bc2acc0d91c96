"""Backbones and heads, in Flax linen. One file a backbone, beside this one or anywhere."""

import functools
import importlib
import pathlib
from typing import Any

from ssl_jax.models.backbone import Backbone, one_of
from ssl_jax.runtime.modules import subclass


@functools.cache
def _classes() -> tuple[type[Backbone], ...]:
    """The backbones that the package has."""
    files = sorted(p.stem for p in pathlib.Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "backbone"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in files]
    found = [c for module in modules for c in vars(module).values() if isinstance(c, type) and issubclass(c, Backbone)]
    return tuple(dict.fromkeys(c for c in found if c is not Backbone))


def names() -> tuple[str, ...]:
    """Names of all backbones that the package has."""
    return tuple(name for cls in _classes() for name in cls.names())


def find(name: str, field: str = "config.model.name") -> type[Backbone]:
    """The class of the backbone called `name`.

    Args:
      name: one that a backbone of the package has, such as 'resnet50', or the dotted path of a module anywhere, such as
        'my_project.my_network', that defines a subclass of `Backbone`.
      field: what the name was given as, for messages.

    Raises:
      UserError: if there is none, naming the nearest.
    """
    if "." in name:
        return subclass(Backbone, name, field)
    one_of(field, name, names())
    return next(cls for cls in _classes() if name in cls.names())


def from_config(config: Any) -> Backbone:
    """Builds the backbone that `config.model` describes.

    Raises:
      UserError: for an unknown name, or a field without meaning.
    """
    return find(config.name).from_config(config)
