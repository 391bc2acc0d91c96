"""Configs: the settings of each method on each data set.

A config is built in layers: every field at its default (`base.py`), the data set's card (`cards.py`), what all recipes
of the method have in common, and the method's recipe for the card (`METHOD.py` in this folder). Such a file holds

    RECIPES      published settings: name of the preset to `Recipe`, with its source and the expected result
    UNPUBLISHED  settings of this package, where nobody published any; on top of the defaults for the card
    COMMON       a `Layer` that all presets of the method have
    for_card     function of a card: the settings where there is no recipe, if those of `defaults.py` do not do
    SMALL        a `Layer` for small images, on top of the family's settings
    SMALLEST     smallest side of a view that the method makes sense for, pixels

and any of them may be missing, as may the file. The preset of a name without a recipe is the defaults alone. A method
outside the package has them in its own module.
"""

from collections.abc import Mapping
import dataclasses
import functools
import importlib
import importlib.util
import types
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.data import loading
from ssl_jax.methods import build
from ssl_jax.recipes import base, cards, defaults
from ssl_jax.recipes.cards import CARDS, Card
from ssl_jax.recipes.layer import Layer, Recipe
from ssl_jax.runtime.errors import UserError, nearest


def get_config(method: str, preset: str = "cifar10") -> ConfigDict:
    """Returns the config of a method on a data set.

    Args:
      method: as `config.method.name`.
      preset: one of `presets(method)`, or a data source of small images; for multitask with names of tasks, joined to
        it by plus signs.

    Raises:
      UserError: for an unknown method or preset, naming the nearest.
    """
    preset, *tasks = preset.split("+")
    config = _single(method, preset)
    compose = getattr(_module(method), "with_tasks", None)
    if compose:
        return compose(config, preset, tasks)
    if tasks:
        raise UserError(
            f"The preset '{preset}+{'+'.join(tasks)}' names tasks, which {method} has none of: drop them, or use the "
            f"method multitask, as in --config=multitask:{preset}+{method}+{'+'.join(tasks)}."
        )
    return config


def presets(method: str) -> list[str]:
    """Names of the presets that a method has.

    Raises:
      UserError: for an unknown method, naming the nearest.
    """
    own = _own(method)
    of_cards = [name for name in CARDS if name in own or not _lacks(method, CARDS[name])]
    return of_cards + [name for name in own if name not in CARDS]


def published(method: str) -> Mapping[str, Recipe]:
    """The recipes of a method that someone published, by preset."""
    return getattr(_module(method), "RECIPES", {})


def _own(method: str) -> dict[str, Recipe]:
    """All recipes of a method."""
    return {**published(method), **getattr(_module(method), "UNPUBLISHED", {})}


@functools.cache
def _module(method: str) -> types.ModuleType:
    """The file of a method's recipes: the one of its name here, or else the method's own."""
    cls = build.find(method)
    name = f"{__name__}.{method}"
    if method in build.names() and importlib.util.find_spec(name):
        return importlib.import_module(name)
    return importlib.import_module(cls.__module__)


def _lacks(method: str, card: Card) -> str:
    """Why a method has no preset of a card that it has no recipe for; empty: it has."""
    smallest = getattr(_module(method), "SMALLEST", 0)
    if card.benchmark:
        return f"it is a benchmark that {method} is not part of"
    if card.side < smallest:
        return f"{method} needs images of {smallest} pixels at least, and those have {card.side}"
    needs = build.find(method).needs
    needs = needs if isinstance(needs, frozenset) else frozenset()  # multitask asks its tasks
    if lacking := sorted((needs & {"clips", "domains", "masks"}) - card.has):
        return f"{method} needs {' and '.join(lacking)}, which those images have not"
    if "colour" in needs and card.channels != 3:
        return f"{method} needs colours, and those images have {card.channels} channel(s)"
    return ""


def _single(method: str, preset: str) -> ConfigDict:
    """The config of a method by itself."""
    recipe = _own(method).get(preset, Recipe())
    card = _card(method, preset, recipe)
    layers: list[Layer] = [card, getattr(_module(method), "COMMON", Layer())]
    if preset not in published(method):
        layers.append(getattr(_module(method), "for_card", functools.partial(defaults.default, method))(card))
        layers.append(_small(method, card))
    config = base.fields()
    config.data.source = card.source
    config.method = base.method_fields(method)
    layers.append(recipe)
    for layer in layers:
        _apply(config, layer)
    config.optim = _optimizers(layers)
    return config


def _small(method: str, card: Card) -> Layer:
    """What a method changes for small images, if the card is of those."""
    small = getattr(_module(method), "SMALL", Layer())
    if card.strong is None:
        return Layer()
    return small if card.optim is None else dataclasses.replace(small, optim=None)


def _card(method: str, preset: str, recipe: Recipe) -> Card:
    """The card of a method's preset.

    Raises:
      UserError: if the method has no such preset.
    """
    known, why = presets(method), ""
    if preset in known:
        return cards.find(recipe.card or preset)
    if preset in CARDS or "." in preset or preset.partition(":")[0] in loading.names():
        card = cards.find(preset)
        if card.benchmark and preset in loading.names():
            card = cards.small_images(preset)  # a recipe for other methods has the name of its source
        why = _lacks(method, card)
        if not why:
            return card
        why = f"{why[0].upper()}{why[1:]}. "
    raise UserError(f"There is no preset '{preset}' for {method}. {why}{nearest(preset, known)}")


def _apply(config: ConfigDict, layer: Layer) -> None:
    """Makes a layer's changes."""
    base.update(config, **{n: getattr(layer, n) for n in ("epochs", "batch_size") if getattr(layer, n) is not None})
    for part in ("data", "model", "method", "eval", "run"):
        base.update(config[part], **getattr(layer, part))


def _optimizers(layers: list[Layer]) -> ConfigDict:
    """The optimiser of each group of parameters: the last one given, with what layers change of it for other groups."""
    default = next((layer.optim for layer in reversed(layers) if layer.optim is not None), {})
    changes: dict[str, dict[str, Any]] = {"default": {}}
    for layer in layers:
        for group, fields in layer.groups.items():
            changes.setdefault(group, {}).update(fields)
    return ConfigDict({group: base.optimizer(**{**default, **fields}) for group, fields in changes.items()})
