"""What every preset's optimiser does, against a record: a change of a shared default must not change a recipe unseen.

`python tests/test_recipes.py` records it anew, in recipes.json, after a change that is meant.
"""

import importlib
import json
import pathlib
import sys

import jax.numpy as jnp
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import common
from ssl_jax import optim
from ssl_jax.methods import build

RECORD = pathlib.Path(__file__).with_name("recipes.json")
RATE = ("learning_rate", "scaling", "schedule", "per_epoch", "final", "milestones", "factor", "warmup_epochs")
EXAMPLES = {  # by the beginning of the preset's name
    "digits": 1352,
    "photo_tiles": 2080,
    "fashion_mnist": 60_000,
    "cifar10_small": 10_000,
    "cifar10": 50_000,
    "imagenet": 1_281_167,
}


def group(entry, batch_size, per_epoch, total):
    """Learning rates at the start, around warm-up and milestones, at each eighth of the run and at its last update."""
    steps = {total * i // 8 for i in range(8)} | {total - 1, round(entry.warmup_epochs * per_epoch)}
    for milestone in entry.milestones if entry.schedule == "steps" else ():
        steps |= {round(milestone * per_epoch) - 1, round(milestone * per_epoch)}
    schedule, decay = optim.learning_rate(entry, batch_size, per_epoch, total), optim.decay_rate(entry, total)
    usual = common.optimizer()
    own = {name: value for name, value in entry.items() if name not in RATE and value != usual[name]}
    return own | {
        "rates": {str(step): float(f"{float(schedule(jnp.asarray(step))):.5g}") for step in sorted(steps)},
        "decay": {str(step): float(decay(step)) if callable(decay) else decay for step in (0, total - 1)},
    }


def recipe(name, preset):
    """Epochs, batch and every group's optimiser of a preset."""
    config = importlib.import_module(f"configs.{name}").get_config(preset)
    per_epoch = next(n for start, n in EXAMPLES.items() if preset.startswith(start)) // config.batch_size
    total = per_epoch * config.epochs
    groups = {label: group(entry, config.batch_size, per_epoch, total) for label, entry in sorted(config.optim.items())}
    return {"epochs": config.epochs, "batch_size": config.batch_size, "optim": groups}


def flat(tree, prefix=""):
    """Path to each value of nested dicts."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {path: value for key, x in tree.items() for path, value in flat(x, f"{prefix}/{key}").items()}


def presets(name):
    module = importlib.import_module(f"configs.{name}")
    return sorted(getattr(module, "PRESETS", common.PRESETS))


def defaults():
    """What a group has where its record says nothing."""
    return json.loads(json.dumps({name: value for name, value in common.optimizer().items() if name not in RATE}))


@pytest.mark.fast
def test_defaults_are_those_on_record():
    assert defaults() == json.loads(RECORD.read_text())["defaults"]


@pytest.mark.fast
@pytest.mark.parametrize("name", build.names())
def test_recipes_are_those_on_record(name):
    recorded = json.loads(RECORD.read_text())
    if name not in recorded:
        pytest.skip("not recorded yet: run `python tests/test_recipes.py`")
    assert set(presets(name)) == set(recorded[name])
    for preset, wanted in recorded[name].items():
        found = flat(json.loads(json.dumps(recipe(name, preset))))
        wanted = flat(wanted)
        words = f"{preset}: if that is meant, run `python tests/test_recipes.py`"
        assert set(found) == set(wanted), words
        for key, value in wanted.items():
            near = pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value
            assert found[key] == near, f"{key}, {words}"


if __name__ == "__main__":
    # A line a preset, which is what a reader of a change wants to see.
    blocks = [f' "defaults": {json.dumps(defaults())}']
    for name in build.names():
        lines = ",\n".join(f'  "{preset}": {json.dumps(recipe(name, preset))}' for preset in presets(name))
        blocks.append(f' "{name}": {{\n{lines}\n }}')
    RECORD.write_text("{\n" + ",\n".join(blocks) + "\n}\n")
