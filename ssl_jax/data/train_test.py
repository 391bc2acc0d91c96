"""The training and the test split that a config names, in memory or streamed, of one source or of several domains."""

from collections.abc import Sequence
import dataclasses
import hashlib
import logging
from typing import Any

import numpy as np

from ssl_jax.data import domains, loading
from ssl_jax.data.dataset import Dataset, DoesNotFit
from ssl_jax.data.labels import first_per_class
from ssl_jax.data.look import tupled
from ssl_jax.metrics.subset import some_of_each, stratified
from ssl_jax.runtime.errors import UserError

log = logging.getLogger("ssl_jax")
Pair = tuple[Dataset, Dataset | None]


def load(config: Any) -> Pair:
    """Loads the training split and the test split, or lists them for streaming.

    Of a source without test images the share `holdout` is held out (see `hold_out`): training does not see it, and the
    monitor, the evaluations and the report measure on it. Without either there is no test split.

    A share `label_noise` of the training labels is made wrong. With a target, or with several sources, each split is
    joined of all of them (see `domains.join`). The labels of the target's training images are withheld, but for
    `target_labels` of each class; those of its test images are for measuring.

    Args:
      config: the section `data` of a run's config.

    Raises:
      UserError: a source is unknown or absent, or the sources cannot be joined.
    """
    if config.path is not None and not any(map(loading.takes_path, _all(config))):
        raise UserError(
            f"config.data.path is '{config.path}', where {' and '.join(_all(config))} is not looked for: leave it "
            f"unset, or set --config.data.source=folder:{config.path} for images there."
        )
    train, test = _found(config)
    share = config.get("label_noise", 0.0)
    if share:
        train = dataclasses.replace(train, labels=noisy(train.labels, len(train.classes), share))
    return train, test


def noisy(labels: np.ndarray, classes: int, share: float) -> np.ndarray:
    """Labels of which a share is replaced by another class, each as likely; the same ones in every run.

    Args:
      labels: int [N], -1 where unknown, which stays.
      classes: K.
      share: of the known labels, rounded to whole images.

    Raises:
      UserError: the share is none, or there are no two classes.
    """
    if not 0 <= share <= 1 or classes < 2:
        raise UserError(
            f"config.data.label_noise is {share} with {classes} classes: it is a share from 0 to 1 of the labels of "
            "two classes or more."
        )
    draw = np.random.RandomState(0)  # a generator whose stream NumPy keeps as it is
    known = np.flatnonzero(labels >= 0)
    wrong = draw.permutation(known)[: round(share * len(known))]
    found = labels.copy()
    found[wrong] = (labels[wrong] + draw.randint(1, classes, len(wrong))) % classes
    return found


def _found(config: Any) -> Pair:
    """The splits as they are, in memory or streamed."""
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
    if config.get("target_labels", 0) and (not config.get("target") or pairs[-1][1] is None):
        raise UserError(
            f"config.data.target_labels is {config.target_labels}, which wants a target with test images, for what is "
            "learned by label is not to be measured on: set config.data.target, and config.data.holdout above 0."
        )
    if not is_joined(config):
        return pairs[0]
    target = bool(config.get("target"))
    if not target:
        _say_classes([train for train, _ in pairs])
    train = domains.join([train for train, _ in pairs], target, withhold=target, max_gib=config.max_gib)
    if config.get("target_labels", 0):
        train = _with_few(train, config.target_labels, config.holdout_seed)
    if all(test is None for _, test in pairs):
        return train, None
    # A domain without test images keeps its number.
    tests = [domain[:0] if test is None else test for domain, test in pairs]
    return train, domains.join(tests, target, max_gib=config.max_gib)


def _say_classes(parts: Sequence[Dataset]) -> None:
    """Says so where sources have different classes, since a wrong name makes two classes of one."""
    count = len(domains.all_classes(parts))
    if any(part.classes and len(part.classes) < count for part in parts):
        own = ", ".join(f"{part.name} {len(part.classes)}" for part in parts)
        log.warning("The sources have different classes, which are joined by name: %d in all (%s).", count, own)


def _with_few(train: Dataset, count: int, seed: int) -> Dataset:
    """Joined domains in which so many images of each class of the target have their labels again."""
    labels, true = train.labels.copy(), np.asarray(train.fields["target_label"])
    rows = some_of_each(true, count, seed)
    if not len(rows):
        raise UserError(f"config.data.target_labels is {count}, and no training image of the target has a label.")
    labels[rows] = true[rows]
    return dataclasses.replace(train, labels=labels)


def hold_out(d: Dataset, share: float, seed: int) -> Pair:
    """Parts the images of a source that has no test images: those to train on, and those to measure on.

    A share of each class is held out, and of the images without a class; at least one, but never the only one.
    Nothing is held out of videos, whose neighbouring frames are alike, nor where measuring wants new classes.

    Args:
      d: all images.
      share: from 0 to 1; 0: nothing is held out.
      seed: of the draw.
    """
    if not share or "clip" in d.fields or d.card.new_classes:
        return d, None
    mask = stratified(d.labels, share, seed)
    if not mask.any():
        return d, None
    train, test = _part(d, np.flatnonzero(~mask)), _part(d, np.flatnonzero(mask))
    return train, dataclasses.replace(test, held_out=True)


def count(source: str, share: float, seed: int) -> int:
    """How many images of a source are trained on, at a hold-out; they are listed and not opened."""
    splits = loading.splits(source)
    if "train" not in splits:
        return 0
    found = loading.load(source, "train", stream=True)
    return len(found if "test" in splits else hold_out(found, share, seed)[0])


def _part(d: Dataset, rows: np.ndarray) -> Dataset:
    """Some rows; what is known of the images without decoding them stays known of these."""
    content = f"{d.content} {hashlib.sha256(rows.tobytes()).hexdigest()[:32]}" if d.content else ""
    return dataclasses.replace(d[rows], content=content)


def reading(c: Any) -> dict[str, Any]:
    """The fields of the section `data` that say how image files are read, as `loading.load` takes them."""
    names = ("range", "channels", "pages", "max_pixels", "image", "label")  # a run of an earlier version lacks some
    return {name: c[name] for name in names if c.get(name) is not None}


def pixels_of(c: Any) -> dict[str, Any]:
    """The fields of the section `data` of a run, as `pixels.Reading` takes them."""
    found = {"channels": c.get("channels"), "span": c.get("range"), "max_pixels": c.get("max_pixels")}
    found["stacked"] = c.get("pages") == "channels"
    return {name: tupled(value) for name, value in found.items() if value is not None}


def _one(source: str, c: Any, streamed: bool) -> Pair:
    options = reading(c) | {"path": c.path, "size": c.size, "max_gib": c.max_gib, "stream": streamed}
    options["labels"] = c.get("labels")
    if "test" not in loading.splits(source, c.path):
        train, test = hold_out(loading.load(source, "train", **options), c.holdout, c.holdout_seed)
        return train if c.per_class is None else _part(train, first_per_class(train.labels, c.per_class, source)), test
    train = loading.load(source, "train", per_class=c.per_class, **options)
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
