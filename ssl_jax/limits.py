"""Values of a config that have no meaning: they are refused before anything is built, or remarked on."""

from collections.abc import Callable, Iterator
import dataclasses
import math
import numbers
import re
import traceback
from typing import Any, TypeVar

from ssl_jax import recipes
from ssl_jax.data.dataset import Dataset
from ssl_jax.methods import build
from ssl_jax.methods.contract import Method
from ssl_jax.methods.ranges import Range
from ssl_jax.runtime.errors import UserError

T = TypeVar("T")

_DEVICES = frozenset(("mesh.data", "mesh.fsdp"))  # -1: all that are left
_MAY_BE_NEGATIVE = _DEVICES | {"method.mean", "data.range"}  # the former of the numbers that aet predicts
_AT_LEAST_ONE = re.compile(
    r"batch_size|epochs|accumulate|model\.(width|patch|bn_groups)|eval\.(?!published)\w+(_k|_epochs|_batch)|eval\.draws"
    r"|run\.(steps_per_call|log_steps|eval_images|keep|stop_epoch)|data\.(size|per_class|max_pixels)"
)
_ABOVE_ZERO = re.compile(r"data\.max_gib|eval\.\w*temperature")
_BELOW_ONE = re.compile(r"data\.holdout|optim\.\w+\.(momentum|b1|b2)")
_SEED_FIELDS, _SEEDS = ("seed", "data.holdout_seed"), 2**32
_WORKERS = 512  # processes that decode, of which the largest hosts want one a core
_LARGEST = 1e9  # beyond it the arithmetic of shapes and steps overflows
_OF_WORDS = frozenset(("order", "classes", "labels", "tasks", "lead"))  # lists that may hold words


def check(config: Any) -> None:
    """Refuses numbers that are not finite, negative or outside of what their field can mean.

    Raises:
      UserError: names the field and what it may be.
    """
    for path, value in _numbers(config.to_dict()):
        wanted = _wanted(path, value)
        if wanted:
            raise UserError(f"config.{path} is {value:g}: it must be {wanted}.")
    _check_method(config.method, "config.method")


def _check_method(part: Any, path: str) -> None:
    """Refuses values of a method and of its tasks that their types do not have (see `methods/ranges.py`)."""
    if "." not in part.name:  # a method from outside the package knows itself what its fields may be
        for field in dataclasses.fields(build.find(part.name)):
            _check_field(field, part.get(field.name), f"{path}.{field.name}")
    for name, tasks in part.items():
        for task, value in tasks.items() if hasattr(tasks, "items") else ():
            if hasattr(value, "get") and isinstance(value.get("name"), str):
                _check_method(value, f"{path}.{name}.{task}")


def _wanted(path: str, value: float) -> str:
    """What a number must be, if it is not."""
    rules = (
        (not math.isfinite(value), "a finite number"),
        (abs(value) > _LARGEST and path not in _SEED_FIELDS, f"at most {_LARGEST:g}"),
        (value < 0 and path not in _MAY_BE_NEGATIVE, "at least 0"),
        (path in _DEVICES and (value < -1 or value == 0), "at least 1, or -1 for all devices that are left"),
        (path == "data.workers" and value > _WORKERS, f"at most {_WORKERS}"),
        (path in _SEED_FIELDS and value >= _SEEDS, f"below {_SEEDS}"),
        (value < 1 and _AT_LEAST_ONE.fullmatch(path), "at least 1"),
        (value <= 0 and _ABOVE_ZERO.fullmatch(path), "above 0"),
        (path == "data.eval_centre" and not 0 < value <= 1, "above 0 and at most 1"),
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


def _check_field(field: dataclasses.Field[Any], value: Any, path: str) -> None:
    """Refuses what a field's type does not have, and 0 for one that is a count or a width, or several."""
    usual = field.default if isinstance(field.default, tuple) else (field.default,)
    counts = bool(usual) and all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in usual)
    said = [part for part in getattr(field.type, "__metadata__", ()) if isinstance(part, Range)]
    allowed = said[0] if said else Range("at least 1", least=1) if counts else None
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    if allowed and any(isinstance(x, numbers.Real) and not allowed.has(float(x)) for x in given):
        shown = f"{value:g}" if isinstance(value, numbers.Real) else value
        raise UserError(f"{path} is {shown}: it must be {allowed.words}.")


def check_comparison(config: Any, method: Method) -> None:
    """Refuses fewer than two images where the loss compares those of a (micro-)batch: it would be constant.

    Raises:
      UserError: names the fields.
    """
    embeds = type(method).embed is not Method.embed
    if not (embeds or method.compares):
        return
    parts = 1 if config.accumulate_loss == "whole" else config.accumulate
    if config.batch_size // parts < 2:
        more = config.batch_size > 1
        how = "or set config.accumulate_loss='whole'" if more and embeds else "since it has no other image"
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


def explained(config: Any, build_run: Callable[[Any], T]) -> T:
    """What `build_run` makes of a config; an error that comes of the config's values becomes a sentence.

    Where the nearest preset's values raise the same error at the same place, it is a bug of ours, and is raised as it
    is. So is an error of a method or a network from outside the package, which is for the one who writes it.

    Raises:
      UserError: instead of an error that the values are to blame for.
    """
    try:
        return build_run(config)
    except UserError:
        raise
    except Exception as error:
        names = (config.method.name, config.model.name)
        if any("." in name and name.replace(".", "").isidentifier() for name in names) or _is_ours(
            error, config, build_run
        ):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"config.method ({config.method.name}), config.model and config.optim cannot be built with these fields "
            f"({type(error).__name__}: {reason}): go back to the preset's values of those that were changed."
        ) from error


def _is_ours(error: Exception, config: Any, build_run: Callable[[Any], Any]) -> bool:
    """Whether the fields of the nearest preset raise the same error at the same place."""
    usual = _nearest_preset(config)
    control = config.copy_and_resolve_references()
    with control.ignore_type(), control.unlocked():
        control.update({name: usual[name] for name in ("method", "model", "optim", "probe")})
    try:
        build_run(control)
    except Exception as other:
        return type(other) is type(error) and _place(other) == _place(error)
    return False


def _nearest_preset(config: Any) -> Any:
    """The preset of the config's method with the fewest other values."""

    def flat(c: Any) -> dict[str, str]:
        return {path: repr(value) for part in ("method", "model", "optim") for path, value in _leaves(c[part], part)}

    own = flat(config)
    found = [recipes.get_config(config.method.name, name) for name in recipes.presets(config.method.name)]
    return min(found, key=lambda preset: len(set(flat(preset).items()) ^ set(own.items())))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "items"):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}")
    else:
        yield path, value


def _place(error: Exception) -> tuple[str, int | None]:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename, last.lineno
