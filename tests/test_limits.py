"""Degenerate settings: refused in a sentence or remarked on; nonsense never ends in a traceback."""

import dataclasses
import itertools
import pathlib
import sys

import jax
import numpy as np
import pytest
import tiny

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import fuzz

from ssl_jax import data, limits, recipes
from ssl_jax.evals import context
from ssl_jax.methods import build
from ssl_jax.monitor import Monitor
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.fast


def test_every_preset_is_within_the_limits():
    for method in build.names():
        for preset in recipes.presets(method):
            limits.check(recipes.get_config(method, preset))


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        (
            "simclr",
            {"optim.default.learning_rate": -1.0},
            r"optim\.default\.learning_rate is -1: it must be at least 0",
        ),
        ("simclr", {"optim.default.weight_decay": -1.0}, "weight_decay is -1"),
        ("simclr", {"optim.default.learning_rate": float("nan")}, "learning_rate is nan: it must be a finite number"),
        ("simclr", {"optim.default.momentum": 1.0}, "momentum is 1: it must be below 1"),
        ("simclr", {"model.bn_groups": 0}, "bn_groups is 0: it must be at least 1"),
        ("simclr", {"model.bn_groups": -1}, "bn_groups is -1"),
        ("simclr", {"model.width": 0}, "model.width is 0: it must be at least 1"),
        ("simclr", {"model.patch": 0}, "model.patch is 0"),
        ("simclr", {"model.heads": -1}, "model.heads is -1"),
        ("simclr", {"seed": -1}, "config.seed is -1"),
        ("simclr", {"seed": 2**40}, "config.seed is .* below 4294967296"),
        ("simclr", {"run.eval_epochs": float("inf")}, "eval_epochs is inf: it must be a finite number"),
        ("simclr", {"run.eval_images": -5}, "eval_images is -5"),
        ("simclr", {"data.eval_centre": float("nan")}, "eval_centre is nan"),
        ("simclr", {"data.eval_centre": 0.0}, "eval_centre is 0: it must be above 0 and at most 1"),
        ("simclr", {"data.workers": -1}, "workers is -1"),
        ("simclr", {"method.out": 1}, "method.out is 1: it must be at least 2"),  # a direction of one dimension
        ("simdino", {"method.local.size": 0}, "method.local.size is 0: it must be at least 1"),
        ("rotation", {"method.view.size": 0}, "method.view.size is 0: it must be at least 1"),
        ("dino", {"method.out": 1}, "method.out is 1: it must be at least 2"),
        ("ibot", {"method.out": 1}, "method.out is 1: it must be at least 2"),
        ("dinov2", {"method.out": 1}, "method.out is 1: it must be at least 2"),
        ("msn", {"method.prototypes": 1}, "method.prototypes is 1: it must be at least 2"),
        ("simclr", {"data.workers": 100_000}, "workers is 100000: it must be at most 512"),
        ("simclr", {"method.temperature": 0.0}, "temperature is 0: it must be above 0"),
        ("simclr", {"method.out": 0}, "method.out is 0: it must be at least 2"),
        ("simclr", {"method.hidden": (0,)}, r"method.hidden is \(0,\): it must be at least 1"),
        ("simclr", {"mesh.data": 0}, "or -1 for all devices"),
        ("swav", {"method.small_crops": -1}, "small_crops is -1: it must be at least 0"),
        ("swav", {"method.iterations": 0}, "iterations is 0: it must be at least 1"),
        ("swav", {"method.prototypes": 1}, "prototypes is 1: it must be at least 2"),
        ("mocov2", {"method.queue_size": 0}, "queue_size is 0: it must be at least 1"),
        ("dino", {"method.student_temp": 0.0}, "student_temp is 0: it must be above 0"),
        ("byol", {"method.tau": 1.5}, "tau is 1.5: it must be from 0 to 1"),
        ("simclr", {"optim.default.frozen_epochs": 1e30}, r"frozen_epochs is 1e\+30: it must be at most 1e\+09"),
        ("simclr", {"model.name": "../x"}, "config.model"),
        ("simclr", {"method.view1.mean": ("a",)}, "view1.mean has 'a': it must be numbers alone"),
        ("mae", {"method.mask_ratio": 1.0}, "mask_ratio is 1: it must be below 1"),
    ],
)
def test_a_value_without_meaning_is_refused(method, changes, words):
    with pytest.raises(UserError, match=words):
        prepare(tiny.config(method, **changes))


@pytest.mark.parametrize("method", ["simclr", "dcl", "barlow_twins", "vicreg"])
def test_an_image_is_not_compared_with_itself_alone(method):
    with pytest.raises(
        UserError, match=r"accumulate=16 leaves one: make it at least 2, or set .*accumulate_loss='whole'"
    ):
        prepare(tiny.config(method, accumulate=16), jax.devices()[:1])
    with pytest.raises(UserError, match=r"batch_size=1 with config.accumulate=1 leaves one"):
        prepare(tiny.config(method, batch_size=1), jax.devices()[:1])
    prepare(tiny.config(method, accumulate=16, accumulate_loss="whole"), jax.devices()[:1])


@pytest.mark.parametrize("method", ["byol", "simsiam", "mocov3", "nnclr", "swav", "wmse", "supcon"])
def test_a_single_image_is_refused_where_the_loss_would_be_constant(method):
    """Their BatchNorm, their negatives or their clusters come of the other images of a micro-batch."""
    with pytest.raises(UserError, match=r"accumulate=16 leaves one: make it at least 2, since it has no other image"):
        prepare(tiny.config(method, accumulate=16), jax.devices()[:1])


def test_what_lies_beyond_the_run_is_said():
    changes = {"optim.default.warmup_epochs": 8.0, "optim.default.frozen_epochs": 2.0}
    changes |= {"optim.default.schedule": "steps", "optim.default.milestones": (1, 5, 9)}
    said = limits.remarks(tiny.config("simclr", **changes))
    assert len(said) == 3
    assert "warmup_epochs is 8 and config.epochs 2: the rate reaches 25 % of its peak" in said[0]
    assert "milestones 5, 9 are not reached in 2 epochs" in said[1]
    assert "frozen_epochs is 2: the group does not move" in said[2]
    assert any("queue is not used" in s for s in limits.remarks(tiny.config("swav", **{"method.queue_length": 64})))
    assert limits.remarks(tiny.config("simclr", epochs=100)) == []


def one_class():
    rows = np.arange(64)
    digits = data.load("digits", "train")[rows]
    return dataclasses.replace(digits, labels=np.zeros(64, np.int32), classes=("a",))


def test_one_class_is_no_labels():
    images = one_class()
    assert "labels" in context.lacking((images, images))
    with pytest.raises(UserError, match="two class folders or more"):
        context.with_labels((images, images))
    run = prepare(tiny.config("rotation"), jax.devices()[:1], (images, images))
    assert not Monitor(run)._scored
    with pytest.raises(UserError, match=r"a single class \('a'\)"):
        prepare(tiny.config("supervised"), jax.devices()[:1], (images, images))


def test_an_error_of_ones_own_method_is_kept(monkeypatch):
    config = tiny.config("rotation")
    with config.unlocked():
        config.method.name = "my.method"
    with pytest.raises(KeyError):
        limits.explained(config, lambda c: {}["x"])


def test_only_errors_of_the_configs_values_become_sentences():
    """An error that the preset's values raise as well is a bug of ours, and keeps its traceback."""
    config = tiny.config("rotation", **{"model.width": 77})
    with pytest.raises(UserError, match=r"\(KeyError: 77\): go back to the preset"):
        limits.explained(config, lambda c: {64: 1, 16: 1, 32: 1}[c.model.width])
    with pytest.raises(KeyError):
        limits.explained(config, lambda c: {}[c.model.width])
    assert limits.explained(config, lambda c: c.model.width) == 77


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("multitask", {"method.tasks.rotation.view.size": -1}, "at least 0"),
        ("dino", {"method.locals": -1}, "at least 0"),
        ("swav", {"method.prototypes": 1}, "at least 2"),
        ("mae", {"method.mask_ratio": 1.0}, "below 1"),
    ],
)
def test_a_method_says_what_its_fields_may_be(method, changes, words):
    config = recipes.get_config(method, recipes.presets(method)[0])
    limits.check(config)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        limits.check(config)


def test_nonsense_never_ends_in_a_traceback():
    """A small draw; `benchmarks/fuzz.py` makes large ones and traces the steps."""
    splits = {}
    for method, changes in itertools.islice(fuzz.cases(0, build.names()), 40):
        assert fuzz.outcome(method, changes, splits, trace=False) in (0, 2), (method, changes)
