"""Values of a config that have no meaning: they are refused before anything is built, or remarked on."""

from collections.abc import Iterator
import contextlib
import dataclasses
import math
import numbers
import re
from typing import Any

from ssl_jax.augment.view import View
from ssl_jax.data.dataset import Dataset
from ssl_jax.methods import build
from ssl_jax.methods.contract import Method
from ssl_jax.runtime.errors import UserError

# Whole numbers of a method that may be 0 although they are not by default; all others are counts and widths.
_MAY_BE_ZERO = frozenset(
    (
        "aberration",
        "gap",
        "inner_steps",
        "jitter",
        "locals",
        "noise",
        "overlap",
        "queue_start",
        "small_crops",
        "smallest",
    )
)
_DEVICES = frozenset(("mesh.data", "mesh.fsdp"))  # -1: all that are left
_MAY_BE_NEGATIVE = _DEVICES | {"method.mean", "data.range"}  # the former of the numbers that aet predicts
_AT_LEAST_ONE = re.compile(
    r"batch_size|epochs|accumulate|model\.(width|patch|bn_groups)|eval\.(?!published)\w+(_k|_epochs|_batch)|eval\.draws"
    r"|run\.(steps_per_call|log_steps|eval_images|keep|stop_epoch)|data\.(size|per_class|max_pixels)"
)
_ABOVE_ZERO = re.compile(r"data\.max_gib|eval\.\w*temperature|method\.(\w+\.)*(\w*temp|temperature|patch_size)")
# From 0 to 1 with both ends, and without the upper one.
_SHARES = re.compile(r"method\.(\w+\.)*(tau|m|momentum|centre_momentum|label_fraction|colour_drop)")
_BELOW_ONE = re.compile(r"data\.holdout|optim\.\w+\.(momentum|b1|b2)|method\.(\w+\.)*(mask_ratio|drop_path|dropout)")
_AT_LEAST_TWO = re.compile(r"method\.(\w+\.)*(prototypes|permutations|ways)")  # one answer is always right
_SEED_FIELDS, _SEEDS = ("seed", "data.holdout_seed"), 2**32
_LARGEST = 1e9  # beyond it the arithmetic of shapes and steps overflows
_OF_WORDS = frozenset(("order", "classes", "tasks", "lead"))  # lists that may hold words


def check(config: Any) -> None:
    """Refuses numbers that are not finite, negative or outside of what their field can mean.

    Raises:
      UserError: names the field and what it may be.
    """
    for path, value in _numbers(config.to_dict()):
        wanted = _wanted(path, value)
        if wanted:
            raise UserError(f"config.{path} is {value:g}: it must be {wanted}.")
    if "." in config.method.name:  # a method from outside the package knows itself what its fields may be
        return
    method = build.find(config.method.name)
    for field in dataclasses.fields(method):
        _check_count(field, config.method.get(field.name))


def _wanted(path: str, value: float) -> str:
    """What a number must be, if it is not."""
    rules = (
        (not math.isfinite(value), "a finite number"),
        (abs(value) > _LARGEST and path not in _SEED_FIELDS, f"at most {_LARGEST:g}"),
        (value < 0 and path not in _MAY_BE_NEGATIVE, "at least 0"),
        (path in _DEVICES and (value < -1 or value == 0), "at least 1, or -1 for all devices that are left"),
        (path in _SEED_FIELDS and value >= _SEEDS, f"below {_SEEDS}"),
        (value < 1 and _AT_LEAST_ONE.fullmatch(path), "at least 1"),
        (value < 2 and _AT_LEAST_TWO.fullmatch(path), "at least 2"),
        (value <= 0 and _ABOVE_ZERO.fullmatch(path), "above 0"),
        (path == "data.eval_centre" and not 0 < value <= 1, "above 0 and at most 1"),
        (value > 1 and _SHARES.fullmatch(path), "from 0 to 1"),
        (value >= 1 and _BELOW_ONE.fullmatch(path), "below 1"),
    )
    return next((words for wrong, words in rules if wrong), "")


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Path and value of every number; of those in a list, under the list's path.

    Raises:
      UserError: a word among the numbers of a method.
    """
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for part in value:
            if isinstance(part, str) and path.rpartition(".")[2] not in _OF_WORDS and path.startswith("method."):
                raise UserError(f"config.{path} has '{part}': it must be numbers alone.")
            yield from _numbers(part, path)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield path, float(value)


def _check_count(field: dataclasses.Field[Any], value: Any) -> None:
    """Refuses 0 for a field of a method that is a count or a width, or several."""
    usual = field.default if isinstance(field.default, tuple) else (field.default,)
    counts = all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in usual)
    if not counts or not usual or field.name in _MAY_BE_ZERO or isinstance(field.default, View):
        return
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    if any(isinstance(x, numbers.Real) and x < 1 for x in given):
        raise UserError(f"config.method.{field.name} is {value}: it must be at least 1.")


def check_comparison(config: Any, method: Method) -> None:
    """Refuses fewer than two images where the loss compares those of a (micro-)batch: it would be constant.

    Raises:
      UserError: names the fields.
    """
    if type(method).embed is Method.embed:
        return
    parts = 1 if config.accumulate_loss == "whole" else config.accumulate
    if config.batch_size // parts < 2:
        how = "or set config.accumulate_loss='whole'" if config.batch_size > 1 else "since it has no other image"
        raise UserError(
            f"{config.method.name} compares the images of a micro-batch, and config.batch_size={config.batch_size} "
            f"with config.accumulate={config.accumulate} leaves one: make it at least 2, {how}."
        )


def check_classes(config: Any, train: Dataset) -> None:
    """Refuses to learn the labels of a single class.

    Raises:
      UserError: names the data.
    """
    if config.method.name == "supervised" and len(train.classes) == 1:
        raise UserError(
            f"config.method.name is 'supervised', and {config.data.source} has a single class "
            f"('{train.classes[0]}'): put the images of each class into a folder of its own, or use another method."
        )


def remarks(config: Any) -> list[str]:
    """What lies beyond the end of the run, a sentence each."""
    found, epochs = [], config.epochs
    for group, c in config.optim.items():
        name = f"config.optim.{group}"
        if c.warmup_epochs >= epochs:
            share = f"{100 * epochs / c.warmup_epochs:.0f} %"
            found.append(
                f"{name}.warmup_epochs is {c.warmup_epochs:g} and config.epochs {epochs}: the rate reaches {share} of "
                "its peak and never falls."
            )
        late = [f"{e:g}" for e in c.milestones if e >= epochs]
        if c.schedule == "steps" and late:
            found.append(f"{name}.milestones {', '.join(late)} are not reached in {epochs} epochs.")
        if c.frozen_epochs >= epochs:
            found.append(f"{name}.frozen_epochs is {c.frozen_epochs:g}: the group does not move in {epochs} epochs.")
    method = config.method
    if method.get("queue_length") and method.get("queue_start", 0) >= epochs:
        found.append(f"config.method.queue_start is {method.queue_start}: the queue is not used in {epochs} epochs.")
    if method.get("warmup_teacher_epochs", 0) > epochs:
        found.append(
            f"config.method.warmup_teacher_epochs is {method.warmup_teacher_epochs}: the temperature does not reach "
            f"its end in {epochs} epochs."
        )
    return found


@contextlib.contextmanager
def explained(config: Any) -> Iterator[None]:
    """Turns what fields without meaning make the building of a run raise into a sentence.

    A method or a network from outside the package keeps its errors, which are for the one who writes it.

    Raises:
      UserError: instead of any other error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if any(
            "." in name and name.replace(".", "").isidentifier() for name in (config.method.name, config.model.name)
        ):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"config.method ({config.method.name}), config.model and config.optim cannot be built with these fields "
            f"({type(error).__name__}: {reason}): go back to the preset's values of those that were changed."
        ) from error
