"""Domains: several sources as one data set, to adapt from one to another, or to learn one after the other."""

from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Any

import numpy as np

from ssl_jax.data import record
from ssl_jax.data.dataset import Card, Dataset, DoesNotFit, check_memory
from ssl_jax.data.lazy import Images, JoinedFiles
from ssl_jax.data.reading import Reading
from ssl_jax.runtime.errors import UserError


def join(parts: Sequence[Dataset], target: bool, withhold: bool = False, max_gib: float = 8.0) -> Dataset:
    """Joins data sets into one that says which image is of which domain.

    Grey images become colour where another data set has colour. Classes go by their names: a target has those of the
    sources, and without one the classes are those of all, in the order in which they are met. A field stays where all
    of them have it in memory and in one shape.

    Args:
      parts: the sources in order, all in memory or all streamed; the target comes last.
      target: whether the last one is the target, whose images may be without classes.
      withhold: whether the target's labels are hidden: its labels become -1, and the field `target_label` keeps them.
      max_gib: the largest array of images to make, in GiB.

    Returns:
      images and labels one after the other; fields `domain` int32 `[N]`, the number of the part, and with `withhold`
      `target_label` int32 `[N]`, which is -1 for the sources.

    Raises:
      DoesNotFit: the images differ in size, or are too large together.
      UserError: the classes of the target or of a source differ from the others', or a source has none.
    """
    classes = parts[0].classes if target else all_classes(parts)
    labels = [_labels(part, classes, target, part is parts[-1], parts[0].name) for part in parts]
    fields = _fields(parts)
    fields["domain"] = np.concatenate([np.full(len(part), number, np.int32) for number, part in enumerate(parts)])
    if withhold:
        kept = [np.full_like(values, -1) for values in labels[:-1]]
        fields["target_label"] = np.concatenate([*kept, labels[-1]])
        labels[-1] = np.full_like(labels[-1], -1)
    images = _streamed(parts) if parts[0].streamed else _resident(parts, max_gib)
    names = tuple(part.name for part in parts)
    name = f"{' + '.join(names[:-1])} to {names[-1]}" if target else " + ".join(names)
    found = Dataset(name, images, np.concatenate(labels), classes, fields)
    content = hashlib.sha256(repr([record.content(part) for part in parts]).encode()).hexdigest()[:32]
    card, spans = _card(found, parts, names), {part.span for part in parts}
    span, held_out = spans.pop() if len(spans) == 1 else None, any(d.held_out for d in parts)
    return dataclasses.replace(found, card=card, content=content, span=span, held_out=held_out)


def all_classes(parts: Sequence[Dataset]) -> tuple[str, ...]:
    """The classes of all data sets, each once, in the order in which they are met."""
    return tuple(dict.fromkeys(name for part in parts for name in part.classes))


def _labels(part: Dataset, classes: tuple[str, ...], target: bool, last: bool, first: str) -> np.ndarray:
    """Labels of a data set in the order of the given classes, int32 [N]."""
    if target and last and not part.classes:
        return np.full(len(part), -1, np.int32)
    if not part.classes or (target and set(part.classes) != set(classes)):
        strange = sorted(set(part.classes) ^ set(classes))
        raise UserError(
            f"{first} and {part.name} cannot be joined, since they differ in their classes ({', '.join(strange[:5])}"
            f"{', ...' if len(strange) > 5 else ''}): choose sources with the same names of classes, or rename the "
            "class folders."
        )
    number = np.array([classes.index(name) for name in part.classes] + [-1], np.int32)
    return number[part.labels]  # -1, which is unknown, takes the last


def _fields(parts: Sequence[Dataset]) -> dict[str, Any]:
    """The fields in memory that all have in the same shape."""
    found = {}
    for name in parts[0].fields:
        values = [part.fields.get(name) for part in parts]
        arrays = [value for value in values if isinstance(value, np.ndarray)]
        if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
            found[name] = np.concatenate(arrays)
    return found


def _resident(parts: Sequence[Dataset], max_gib: float) -> np.ndarray:
    sides = {part.image_shape[:2] for part in parts}
    if len(sides) > 1:
        shapes = ", ".join(f"{part.name}: {part.image_shape[1]}x{part.image_shape[0]}" for part in parts)
        raise DoesNotFit(
            f"The images of the domains differ in size ({shapes}): set --config.data.size to bring them to one size."
        )
    channels = max(part.image_shape[2] for part in parts)
    shape = (sum(map(len, parts)), *sides.pop(), channels)
    check_memory(shape, max_gib, " and ".join(part.name for part in parts))
    images, start = np.empty(shape, np.uint8), 0
    for part in parts:
        images[start : start + len(part)] = part.images  # grey is repeated
        start += len(part)
    return images


def _streamed(parts: Sequence[Dataset]) -> Images:
    images: list[Any] = [part.images for part in parts]
    starts = np.cumsum([0, *(len(part.files) for part in images)])
    rows = np.concatenate([part.rows + start for part, start in zip(images, starts, strict=False)])
    content = hashlib.sha256(repr([part.content for part in images]).encode()).hexdigest()
    files = JoinedFiles(tuple(part.files for part in images), starts)
    return Images(files, rows, images[0].size, content, _reading(images), _pages(images))


def _pages(parts: Sequence[Images]) -> np.ndarray | None:
    """The pages of all files; None where all are the first."""
    if all(part.pages is None for part in parts):
        return None
    return np.concatenate([np.zeros(len(p.files), int) if p.pages is None else p.pages for p in parts])


def _reading(parts: Sequence[Images]) -> Reading:
    """How the pixels of all parts are taken.

    Raises:
      UserError: it is not the same.
    """
    found = {part.reading for part in parts}
    if len(found) > 1:
        spans = {reading.span for reading in found}
        raise UserError(
            f"The sources have pixels of several ranges ({spans}): set --config.data.range for all of them."
        )
    return found.pop()


def _card(found: Dataset, parts: Sequence[Dataset], names: tuple[str, ...]) -> Card:
    height, width, channels = found.image_shape
    mirrors = {part.card.mirrors for part in parts}
    return Card(
        side=height if height == width and not found.streamed else None,
        channels=channels,
        classes=len(found.classes),
        mirrors=mirrors.pop() if len(mirrors) == 1 else False if False in mirrors else None,
        domains=names,
        mask_classes=parts[0].card.mask_classes if "mask" in found.fields else (),
        licence="; ".join(dict.fromkeys(part.card.licence for part in parts if part.card.licence)),
        origin="; ".join(dict.fromkeys(part.card.origin for part in parts if part.card.origin)),
    )
