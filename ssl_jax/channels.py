"""Views of images whose channels the config names: normalised by what the images say, and without colours."""

from collections.abc import Iterator
import logging
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from ssl_jax.data import Dataset, train_test
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError

_MOST = 256  # images that mean and standard deviation are computed of
_SIDE = 64  # of their squares where `data.size` says none, pixels
_COLOUR = ("saturation", "hue", "gray", "pca", "hsv")  # of a view, without meaning on other channels than three

log = logging.getLogger("ssl_jax")


def completed(config: Any, train: Dataset | None = None) -> Any:
    """The config with views that suit the channels of `config.data.channels`.

    A view whose mean and standard deviation are of another number of channels gets those of the training images. On
    other than three channels what changes colours is switched off. Both are said.

    Args:
      config: as `ssl_jax/recipes/base.py` describes; it stays as it is.
      train: the training images; None: those that it names.

    Raises:
      UserError: they cannot be read.
    """
    channels = config.data.get("channels")
    if not channels:
        return config
    config = config.copy_and_resolve_references()
    count, views = len(channels), dict(_views(config.method, "config.method"))
    off = {name: [f for f in _COLOUR if count != 3 and view[f]] for name, view in views.items()}
    wrong = {name: v for name, v in views.items() if not {len(v.mean), len(v.std)} <= {1, count}}
    for name, fields in off.items():
        for field in fields:
            views[name][field] = 0.0
    if wrong:
        mean, std = _statistics(_listed(config.data) if train is None else train, config.data.size or _SIDE)
        for view in wrong.values():
            view.mean, view.std = mean, std
        log.warning(
            "%s: mean %s and std %s are those of the training images", ", ".join(wrong), _words(mean), _words(std)
        )
    if any(off.values()):
        named = "; ".join(f"{name}: {', '.join(fields)}" for name, fields in off.items() if fields)
        log.warning("images of %d channels have no colours to change: set to 0 are %s", count, named)
    return config


def _views(part: Any, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """The views of a method and of its tasks, by the path of their field."""
    for name, value in part.items():
        if not isinstance(value, ConfigDict):
            continue
        if {"crop", "mean", "std"} <= set(value):
            yield f"{path}.{name}", value
        else:
            yield from _views(value, f"{path}.{name}")


def _listed(config: Any) -> Dataset:
    """The training images, in their files where they can stay there."""
    listed = config.copy_and_resolve_references()
    listed.stream = "always"
    try:
        return train_test.load(listed)[0]
    except UserError:  # a compressed archive, or images that come as one array
        return train_test.load(config)[0]


def _statistics(train: Dataset, side: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values from 0 to 1, over some images evenly spread."""
    means, squares = [], []
    for row in evenly_spaced(np.arange(len(train)), _MOST):
        values = train.pictures(np.array([row]), side).astype(np.float64) / 255
        means.append(values.mean((0, 1, 2)))
        squares.append((values**2).mean((0, 1, 2)))
    mean = np.mean(means, 0)
    std = np.sqrt(np.maximum(np.mean(squares, 0) - mean**2, 1e-6))  # a channel may be the same everywhere
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-3) for s in std)


def _words(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
