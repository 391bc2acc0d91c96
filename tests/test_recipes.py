"""What every preset is, against a record: a change of a shared default must not change a recipe unseen.

`python tests/test_recipes.py` records it anew, in recipes.json, after a change that is meant.
"""

import ast
import importlib
import itertools
import json
import pathlib
import re
import runpy
import sys

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
import tiny

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from ssl_jax import data, models, optim
from ssl_jax.data import train_test
from ssl_jax.methods import build
from ssl_jax.recipes import base, cards, get_config, presets, published
from ssl_jax.recipes.cards import CARDS, small_images
from ssl_jax.recipes.layer import MEASURES, Expected, Recipe
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORD = pathlib.Path(__file__).with_name("recipes.json")
RATE = ("learning_rate", "scaling", "schedule", "per_epoch", "final", "milestones", "factor", "warmup_epochs")


def group(entry, batch_size, per_epoch, total):
    """Learning rates at the start, around warm-up and milestones, at each eighth of the run and at its last update."""
    steps = {total * i // 8 for i in range(8)} | {total - 1, round(entry.warmup_epochs * per_epoch)}
    for milestone in entry.milestones if entry.schedule == "steps" else ():
        steps |= {round(milestone * per_epoch) - 1, round(milestone * per_epoch)}
    schedule, decay = optim.learning_rate(entry, batch_size, per_epoch, total), optim.decay_rate(entry, total)
    usual = base.optimizer()
    own = {name: value for name, value in entry.items() if name not in RATE and value != usual[name]}
    return own | {
        "rates": {str(step): float(f"{float(schedule(jnp.asarray(step))):.5g}") for step in sorted(steps)},
        "decay": {str(step): float(decay(step)) if callable(decay) else decay for step in (0, total - 1)},
    }


def fields(config):
    """Path to each value that is not the default of its field, but for the optimisers."""
    usual = base.fields()
    tasks = {name: base.method_fields(task.name) for name, task in config.method.get("tasks", {}).items()}
    usual.method = base.method_fields(config.method.name, **({"tasks": ConfigDict(tasks)} if tasks else {}))
    found, usual = flat(json.loads(config.to_json())), flat(json.loads(usual.to_json()))
    own = {path: value for path, value in found.items() if path not in usual or value != usual[path]}
    return {path[1:]: value for path, value in sorted(own.items()) if not path.startswith("/optim/")}


def recipe(name, preset):
    """What a preset changes of the defaults, and what every group's optimiser does."""
    config = get_config(name, preset)
    cards, few = [data.card(source) for source in train_test.sources(config.data.source)], config.data.per_class
    per_epoch = sum(min(card.count, few * card.classes) if few else card.count for card in cards) // config.batch_size
    total = per_epoch * config.epochs
    groups = {label: group(entry, config.batch_size, per_epoch, total) for label, entry in sorted(config.optim.items())}
    return {"epochs": config.epochs, "batch_size": config.batch_size, "optim": groups, "fields": fields(config)}


def flat(tree, prefix=""):
    """Path to each value of nested dicts."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {path: value for key, x in tree.items() for path, value in flat(x, f"{prefix}/{key}").items()}


def defaults():
    """What a group has where its record says nothing."""
    return json.loads(json.dumps({name: value for name, value in base.optimizer().items() if name not in RATE}))


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


@pytest.mark.fast
@pytest.mark.parametrize("name", build.names())
def test_published_recipes_say_where_they_are_from(name):
    own = getattr(importlib.import_module(f"ssl_jax.recipes.{name}"), "UNPUBLISHED", {})
    assert not set(own) & set(published(name))
    for preset, recipe in published(name).items():
        assert cards.find(recipe.card or preset).source and recipe.source
        for result in recipe.expected:
            assert 0 < result.value < 1 and result.measure in MEASURES
    assert not any(recipe.source or recipe.expected for recipe in own.values())


@pytest.mark.fast
@pytest.mark.parametrize("method", ["exemplar", "context_prediction", "s4l"])
def test_googles_code_decays_kernels_alone(method):
    """google/revisiting-self-supervised and google-research/s4l, models/resnet.py: `kernel_regularizer`, no other."""
    entry = get_config(method, "imagenet").optim
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, 2))}, "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
    lines = optim.describe(entry, jax.tree.map(lambda _: "default", params), params)
    assert [line.endswith("excluded") for line in sorted(lines)] == [False, True, True]


@pytest.mark.fast
def test_nnclr_has_byols_views():
    """As the port for VISSL (nnclr_8node_resnet.yaml) and solo-learn read the paper."""
    nnclr, byol = (get_config(name, "imagenet").method for name in ("nnclr", "byol"))
    assert nnclr.view1.to_dict() == byol.view1.to_dict() and nnclr.view2.to_dict() == byol.view2.to_dict()


@pytest.mark.fast
def test_a_changed_recipe_is_no_longer_the_published_one():
    one = Recipe(source="a", expected=(Expected(0.5, "knn"),), method={"a": 1, "b": 1}, optim={"b1": 0.5}, epochs=3)
    other = one.but(method={"b": 2}, optim={"b2": 0.5})
    assert other == Recipe(method={"a": 1, "b": 2}, optim={"b2": 0.5}, epochs=3)
    assert one.method == {"a": 1, "b": 1}


# A new data set is a card.
BOATS = data.Card(side=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), mirrors=True)
LETTERS = data.Card(side=40, mean=(0.1,), std=(0.3,), mirrors=False)
NEW = {
    "boats": small_images("folder:boats", BOATS, epochs=7),
    "letters": small_images("folder:letters", LETTERS),
}

OTHER_DATA = {  # what a method needs beyond images and labels
    name: " and ".join(sorted(found))
    for name in build.names()
    if isinstance(needs := build.find(name).needs, frozenset) and (found := needs & {"clips", "domains", "masks"})
}

# What methods whose batches have classes can ask of two of them.
TWO_CLASSES = {"protonet": {"ways": 2}, "maml": {"ways": 2}, "sequence": {"task_count": 2}}
TWO_CLASSES |= {name: {"images_per_class": 64} for name in ("triplet", "contrastive_pair", "n_pairs")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images of each new card, in folders of two classes."""
    draw, places = np.random.default_rng(0), {}
    for name, card in NEW.items():
        places[name] = tmp_path_factory.mktemp(name)
        for split, label, i in itertools.product(("train", "test"), "ab", range(128)):
            file = places[name] / split / label / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (card.side, card.side, card.channels), np.uint8)
            Image.fromarray(pixels.squeeze()).save(file)
    return places


@pytest.mark.parametrize("card", list(NEW))
@pytest.mark.parametrize("name", build.names())
def test_a_new_data_set_is_one_card_for_all_methods(monkeypatch, folders, name, card):
    monkeypatch.setitem(CARDS, card, NEW[card])
    side, channels = NEW[card].side, NEW[card].channels
    if name in ("colorization", "split_brain") and channels == 1:
        with pytest.raises(UserError, match="needs colours, and those images have 1 channel"):
            get_config(name, card)
        return
    if needs := OTHER_DATA.get(name):
        with pytest.raises(UserError, match=f"needs {needs}, which those images have not"):
            get_config(name, card)
        return
    config = get_config(name, card)
    for field, value in TWO_CLASSES.get(name, {}).items():
        config.method[field] = value
    assert config.data.source == NEW[card].source
    config.data.source, config.data.stream, config.batch_size = f"folder:{folders[card]}", "never", 128
    run = prepare(config, jax.devices()[:1])  # traces `init`
    assert run.train.image_shape == (side, side, channels)
    flips = {view.flip for view in run.method.views().values()}
    assert flips <= {0.0, 0.5} if channels == 3 else flips == {0.0}
    state = jax.eval_shape(run.init)
    batch = jax.eval_shape(lambda: tiny.batch_of(run, 128))
    loss, _ = jax.eval_shape(tiny.loss_function(run), state.params, state.state, batch)
    assert loss.shape == ()


@pytest.mark.fast
@pytest.mark.parametrize("source", ["mnist", "mnist_m", "coil100", "omniglot", "tfds:cifar100"])
@pytest.mark.parametrize("name", build.names())
def test_a_data_source_of_small_images_is_a_preset(name, source):
    facts = data.card(source)
    if name in ("colorization", "split_brain") and facts.channels == 1:
        return
    if needs := OTHER_DATA.get(name):
        with pytest.raises(UserError, match=f"needs {needs}, which those images have not"):
            get_config(name, source)
        return
    config = get_config(name, source)
    assert config.data.source.startswith(source)  # omniglot:rotated of omniglot, where a method has tasks of it
    method = build.method(config.method, backbone=models.from_config(config.model))
    method.check(facts.side, facts.side, facts.channels)
    assert facts.mirrors or all(view.flip == 0 for view in method.views().values())


@pytest.mark.fast
def test_what_cannot_be_says_why():
    for name, preset, words in (
        ("mae", "digits", "needs images of 28 pixels at least, and those have 8"),
        ("colorization", "fashion_mnist", "needs colours"),
        ("vicreg", "cifar10_lightly", "a benchmark that vicreg is not part of"),
        ("simclr", "cifar1O", "Did you mean 'cifar10'"),
        ("simclr", "cifar10+rotation", "--config=multitask:cifar10+simclr+rotation"),
        ("simclear", "cifar10", "Did you mean 'simclr'"),
        ("simclr", "folder:boats", "boats: no such folder or archive"),
        ("simclr", "davis", "its card must say mean, std and side, 128 pixels at most"),
        ("simclr", "tfds:imagenet2012", "There are no presets for the data source"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            get_config(name, preset)


@pytest.mark.fast
def test_the_package_does_not_know_the_folder_configs():
    """A user's own folder of that name must not matter."""
    for file in (ROOT / "ssl_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            assert not [n for n in names if n == "configs" or re.match(r"configs\.\w+$", n)], file


@pytest.mark.fast
def test_every_method_has_a_config_file():
    files = {p.stem: p for p in (ROOT / "configs").glob("*.py")}
    assert sorted(files) == build.names()
    for name, file in files.items():
        make = runpy.run_path(str(file))["get_config"]
        preset = "cifar10" if "cifar10" in presets(name) else make.__defaults__[0]  # a method of videos has no CIFAR-10
        text = file.read_text()
        assert make.__defaults__[0] in presets(name) and f"configs/{name}.py:{make.__defaults__[0]}" in text
        assert make(preset) == get_config(name, preset) and make() == get_config(name, make.__defaults__[0])


if __name__ == "__main__":
    # A line a preset, which is what a reader of a change wants to see.
    blocks = [f' "defaults": {json.dumps(defaults())}']
    for name in build.names():
        lines = ",\n".join(f'  "{preset}": {json.dumps(recipe(name, preset))}' for preset in sorted(presets(name)))
        blocks.append(f' "{name}": {{\n{lines}\n }}')
    RECORD.write_text("{\n" + ",\n".join(blocks) + "\n}\n")
