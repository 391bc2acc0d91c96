"""The training and the test split that a config names, in memory or streamed, of one source or of several domains."""

import dataclasses
from typing import Any

import numpy as np

from ssl_jax.data import domains, loading
from ssl_jax.data.dataset import Dataset, DoesNotFit
from ssl_jax.runtime.errors import UserError

Pair = tuple[Dataset, Dataset | None]


def load(config: Any) -> Pair:
    """Loads the training split, and the test split where there is one; or lists them for streaming.

    With a target, or with several sources, each split is joined of all of them (see `domains.join`). The labels of the
    target's training images are withheld; those of its test images are for measuring.

    Args:
      config: the section `data` of a run's config.

    Raises:
      UserError: a source is unknown or absent, or the sources cannot be joined.
    """
    if config.stream not in ("auto", "always", "never"):
        raise UserError(f"config.data.stream is '{config.stream}': use 'auto', 'always' or 'never'.")
    if config.stream == "always":
        return _load(config, streamed=True)
    try:
        return _load(config, streamed=False)
    except DoesNotFit:
        if config.stream == "never" or not all(loading.streams(source) for source in _all(config)):
            raise
        return _load(config, streamed=True)


def sources(source: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Returns the sources of `config.data.source`: a list of them, or names with commas between, or one name.

    A comma that no source's name follows belongs to a path.
    """
    if not isinstance(source, str):
        return tuple(source)
    found: list[str] = []
    for piece in source.split(","):
        if found and piece.partition(":")[0] not in loading.names():
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return tuple(found)


def is_joined(config: Any) -> bool:
    """Whether the section `data` of a config names several sources or a target."""
    return bool(config.get("target")) or len(sources(config.source)) > 1


def _all(config: Any) -> tuple[str, ...]:
    target = config.get("target")
    return (*sources(config.source), *([target] if target else []))


def _load(config: Any, streamed: bool) -> Pair:
    pairs = [_one(source, config, streamed) for source in _all(config)]
    if not is_joined(config):
        return pairs[0]
    target = bool(config.get("target"))
    train = domains.join([train for train, _ in pairs], target, withhold=target, max_gib=config.max_gib)
    if all(test is None for _, test in pairs):
        return train, None
    # A domain without test images keeps its number.
    tests = [domain[:0] if test is None else test for domain, test in pairs]
    return train, domains.join(tests, target, max_gib=config.max_gib)


def _one(source: str, c: Any, streamed: bool) -> Pair:
    options = {"path": c.path, "size": c.size, "max_gib": c.max_gib, "stream": streamed, "range": c.get("range")}
    train = loading.load(source, "train", per_class=c.per_class, **options)
    if "test" not in loading.splits(source, c.path):
        return train, None
    test = loading.load(source, "test", **options)
    if streamed:
        return train, test
    channels = max(train.images.shape[-1], test.images.shape[-1])  # all images of one split may happen to be gray
    train, test = (
        d if d.images.shape[-1] == channels else dataclasses.replace(d, images=np.repeat(d.images, channels, axis=-1))
        for d in (train, test)
    )
    if test.images.shape[1:] != train.images.shape[1:]:
        shapes = [" x ".join(map(str, d.images.shape[1:])) for d in (train, test)]
        raise DoesNotFit(
            f"The training images of {source} are {shapes[0]} but its test images {shapes[1]}: set "
            "--config.data.size to bring them to one size, or --config.data.stream=auto."
        )
    return train, test
