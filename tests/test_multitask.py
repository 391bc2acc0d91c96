"""Multi-task learning: one backbone, tasks that stay what they are alone, and one kind of input for all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import data, models
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.evals import pretext
from ssl_jax.methods import build, contract
from ssl_jax.methods.combine import multitask
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step
from ssl_jax.workdir import config as stored_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def method(preset="photo_tiles", **changes):
    c = get_config("multitask", preset)
    return dataclasses.replace(build.method(c.method, models.from_config(c.model)), **changes)


@pytest.mark.fast
@pytest.mark.parametrize("tasks", ["rotation", "context_prediction+colorization", "exemplar+mae+rotation"])
def test_a_run_keeps_its_own_tasks(tmp_path, tasks):
    """What its workdir says is complete as it is; a field that it lacks is that of its tasks."""
    c = get_config("multitask", f"cifar10_small+{tasks}")
    stored_config.store(str(tmp_path), c)
    assert stored_config.plain(stored_config.load(str(tmp_path))) == stored_config.plain(c)
    stored_config.check(str(tmp_path), c)
    last = tasks.split("+")[-1]
    del c.method.weights[last], c.method.tasks[last].name
    stored_config.store(str(tmp_path), c)
    found = stored_config.load(str(tmp_path)).method
    assert found.weights[last] == 1.0 and found.tasks[last].name == last and len(found.tasks) == len(tasks.split("+"))


@pytest.mark.fast
def test_inputs_are_harmonised():
    """Grey in three copies, also of a task that feeds lightness itself, in one channel."""
    x = np.random.default_rng(0).uniform(size=(4, 6, 6, 3)).astype(np.float32)
    found = np.asarray(multitask.harmonised(jnp.asarray(x)))
    gray = x @ np.array([0.2989, 0.5870, 0.1140], np.float32)
    np.testing.assert_allclose(found, np.stack([gray] * 3, -1), atol=1e-6)
    np.testing.assert_allclose(multitask.harmonised(jnp.asarray(gray[..., None])), found, atol=1e-6)


@pytest.mark.fast
def test_the_harmonised_backbone_has_the_parameters_of_the_plain_one():
    plain = method().backbone
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    wrapped = multitask.Harmonised(plain)
    variables = jax.jit(lambda: wrapped.init(jax.random.key(0), x, train=True))()
    shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), x, train=True))
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    found = jax.jit(lambda v: wrapped.apply(v, x, train=False))(variables)
    wanted = jax.jit(lambda v: plain.apply(v, multitask.harmonised(x), train=False))(variables)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (wrapped.norm, wrapped.stages, wrapped.bn_groups) == ("batch", 3, 1)


def test_with_the_others_weighing_nothing_a_task_is_what_it_is_alone():
    run = tiny.compiled("multitask")[0]
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 8)
    lone = dataclasses.replace(run.method, weights={"rotation": 1.0, "context_prediction": 0.0})
    (first, *_), task = sorted(run.method.tasks), run.method._tasks()["rotation"]
    assert first == "context_prediction"
    views = {"view": batch["rotation/view"], **{k: batch[k] for k in ("index", "label", "position")}}

    class Alone(type(task)):
        def loss(self, params, state, batch, *, rng, **rest):  # the key that it has among the tasks
            return super().loss(params, state, batch, rng=jax.random.fold_in(rng, 1), **rest)

    together = jax.jit(jax.value_and_grad(tiny.loss_function(run, lone), has_aux=True))
    alone = jax.jit(jax.value_and_grad(tiny.loss_function(run, Alone(**vars(task))), has_aux=True))
    (loss, (state, metrics)), grads = together(ts.params, ts.state, batch)
    own = {"backbone": ts.params["backbone"], **ts.params["rotation"]}
    (wanted, (wanted_state, _)), wanted_grads = alone(own, ts.state["rotation"], views)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    np.testing.assert_allclose(metrics["rotation/loss"], wanted, rtol=1e-6)
    tiny.assert_close({"backbone": grads["backbone"], **grads["rotation"]}, wanted_grads, 1e-5)
    tiny.assert_close(state["rotation"], wanted_state, 1e-6)
    assert all(not np.any(x) for x in jax.tree.leaves(grads["context_prediction"]))
    # And the sum of the losses is the loss.
    (both, _), _ = jax.jit(jax.value_and_grad(tiny.loss_function(run), has_aux=True))(ts.params, ts.state, batch)
    weights = run.method.weights
    wanted = sum(weights[name] * metrics[f"{name}/loss"] for name in ("rotation", "context_prediction"))
    np.testing.assert_allclose(both, wanted, rtol=1e-5)


@pytest.mark.fast
def test_every_hook_is_delegated():
    """A hook that is new to `Method` has to be passed on to the tasks."""
    # Made of other hooks, and the two parts of a loss that compares embeddings, of which there is none here.
    others = {"primary_view", "eval_view", "embed", "compare"}
    hooks = {name for name in vars(contract.Method) if not name.startswith("_") and name != "backbone"}
    assert {"needs", "lead_view", "sampler", "encode", "predict", "on_epoch", "chance"} < hooks
    assert hooks - others <= set(vars(multitask.Multitask))


def test_evaluation_follows_the_lead_and_every_task_has_its_pictures():
    run = tiny.compiled("multitask")[0]
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 16)
    assert run.method.lead == "rotation"
    x = batch["rotation/view"]
    features = jax.jit(functools.partial(tiny.features, run.method))
    found = features(ts.params, ts.state, x)
    moved = {**ts.state, "context_prediction": jax.tree.map(lambda s: s + 1, ts.state["context_prediction"])}
    np.testing.assert_array_equal(features(ts.params, moved, x), found)
    pictures = run.method.pictures(ts.params, ts.state, batch, rng=jax.random.key(0))
    assert [p.title.split(":")[0] for p in pictures] == ["context_prediction", "rotation"]
    for picture in pictures:
        tiny.assert_picture(picture)


@pytest.mark.fast
@pytest.mark.parametrize("tasks", ["context_prediction+exemplar", "rotation+jigsaw+counting+aet", "exemplar"])
@pytest.mark.parametrize("preset", ["photo_tiles", "cifar10_small", "imagenet"])
def test_tasks_are_named_on_the_command_line(preset, tasks):
    c = get_config("multitask", f"{preset}+{tasks}")
    m = build.method(c.method, models.from_config(c.model))
    side = {"imagenet": 292}.get(preset, 32)
    m.check(side, side, 3)
    assert set(m.tasks) == set(tasks.split("+")) and m.lead == tasks.split("+")[0]
    assert {name.split("/")[0] for name in m.views()} == set(m.tasks)
    assert set(c.optim) == {"default"}
    info = contract.Info(100, 10, 10, 100)
    assert m.chance(info) == pytest.approx(sum(m.weights[k] * t.chance(info) for k, t in m.tasks.items()))


@pytest.mark.fast
@pytest.mark.parametrize("harmonise", [True, False])
def test_colours_are_dropped_where_inputs_keep_them(harmonise):
    c = get_config("multitask", "cifar10_small+rotation+context_prediction")
    c.method.harmonise = harmonise
    tasks = build.method(c.method, models.from_config(c.model))._tasks()
    assert tasks["context_prediction"].drop_colours is not harmonise
    assert (type(tasks["rotation"].backbone) is multitask.Harmonised) is harmonise


@pytest.mark.fast
@pytest.mark.parametrize("preset", ["fashion_mnist", "cifar10", "cifar10_small", "imagenet"])
def test_exemplar_among_others_has_triplets(preset):
    """As the paper's; the loss of a softmax over all images would outweigh all others."""
    c = get_config("multitask", f"{preset}+rotation+exemplar")
    method = build.method(c.method, models.from_config(c.model))
    assert method.tasks["exemplar"].chance(contract.Info(10**6, 8, 8, 8)) < 1


@pytest.mark.fast
def test_a_state_that_no_task_changes_at_an_epoch_stays_the_same_object():
    m = method()
    params = {"backbone": {}, "rotation": {}, "context_prediction": {}}
    state = {"rotation": {"stats": {}}, "context_prediction": {"stats": {}}}
    info = contract.Info(10, 2, 5, 5)
    args = {"rng": jax.random.key(0), "step": 0, "info": info, "embed": lambda fn: None}
    assert m.on_epoch(params, state, **args) is state
    seen = []

    class Counts(type(m.tasks["rotation"])):
        def on_epoch(self, params, state, *, rng, step, info, embed):
            assert set(params) == {"backbone"}
            embed(lambda p, s, batch: seen.append((set(p), s, set(batch))))
            return {"stats": {}, "epochs": 1}

    other = dataclasses.replace(m, tasks={**m.tasks, "rotation": Counts(m.backbone)})
    args["embed"] = lambda fn: fn(params, state, {"rotation/view": 0, "context_prediction/view": 1, "index": 2})
    new = other.on_epoch(params, state, **args)
    assert new["rotation"] == {"stats": {}, "epochs": 1}
    assert new["context_prediction"] is state["context_prediction"]
    assert seen == [({"backbone"}, state["rotation"], {"view", "index"})]


def run_of(tasks, preset="photo_tiles", devices=1, **changes):
    """Tasks joined by plus signs, on a convnet four channels wide and 16 images a batch."""
    c = get_config("multitask", f"{preset}+{tasks}")
    c.batch_size, c.epochs, c.model.width, c.model.name = tiny.BATCH, 2, 4, "convnet"
    c.method.update(changes)
    splits = None if preset == "photo_tiles" else (noise(), None)
    return prepare(c, jax.devices()[:devices], splits)


def noise():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 28, 28, 1), np.uint8)
    return data.Dataset("noise", images, rng.integers(0, 10, 32, np.int32), tuple("0123456789"))


def test_targets_banks_and_optimisers_of_tasks_are_kept_over_replicas():
    """Two updates with a target, a memory bank in shares and a discriminator of its own, on one device and on two."""
    ends = []
    for devices in (1, 2):
        run = run_of("byol+npid+context_encoder", "fashion_mnist", devices)
        assert set(run.config.optim) == {"default", "discriminator"}
        resident = loader.on_devices(run.train, run.mesh)
        ts, step = begin_epoch(run)(run.init(), resident["image"], 0), mapped_step(run)
        start = jax.device_get(ts)
        for number in range(2):
            ts, metrics = step(ts, resident, batch_index(run, number))
        ends.append(jax.device_get((ts, metrics)))
    tiny.assert_close(ends[1][1], ends[0][1], 1e-3)
    end = ends[0][0]
    # Adam, the discriminator's, makes much of gradients that are zero but for rounding.
    tiny.assert_close(ends[1][0].params, end.params, 1e-2)
    tiny.assert_close(ends[1][0].state, end.state, 1e-2)
    discriminator = [x.params["context_encoder"]["discriminator"] for x in (start, end)]
    target, bank = (
        [x.state[name][part] for x in (start, end)] for name, part in (("byol", "target"), ("npid", "bank"))
    )
    for before, after in (discriminator, target, bank):
        leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        assert max(np.abs(a - b).max() for a, b in leaves) > 0


def test_the_combinations_of_the_paper_train():
    """Relative position with colorization and exemplar; held out, only what knows no training image is measured."""
    run = run_of("context_prediction+colorization+exemplar")
    ts, batch = run.init(), tiny.batch_of(run, 8)
    (loss, (_, metrics)), grads = jax.jit(jax.value_and_grad(tiny.loss_function(run), has_aux=True))(
        ts.params, ts.state, batch
    )
    assert np.isfinite(loss)
    for name in ("context_prediction", "colorization", "exemplar"):
        assert np.isfinite(metrics[f"{name}/loss"])
        assert any(np.any(x) for x in jax.tree.leaves(grads[name]))
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    measure = pretext.measurer(run.method, run.info, run.mesh, 8)
    found = measure(ts.params, ts.state, ts.step, images, np.zeros(16, np.int32))
    assert "context_prediction/neighbour_top1" in found and not [name for name in found if "exemplar" in name]
    parts = [run.method.tasks[name].chance(run.info) for name in ("context_prediction", "colorization")]
    np.testing.assert_allclose(found["loss"].chance, sum(parts), rtol=1e-5)
    only = dataclasses.replace(run.method, tasks={"exemplar": run.method.tasks["exemplar"]}, lead="exemplar")
    assert only.needs == {"index"} and run.method.needs == {"colour"}


def test_tasks_that_cannot_share_a_backbone_are_named():
    with pytest.raises(UserError, match="'split_brain', whose backbone is two halves"):
        run_of("rotation+split_brain")
    with pytest.raises(UserError, match="whose backbone has other parameters"):
        run_of("rotation+colorization", harmonise=False)  # of one channel, and of three


@pytest.mark.fast
def test_mistakes_are_explained():
    with pytest.raises(UserError, match="Did you mean 'rotation'"):
        get_config("multitask", "cifar10+rotatoin")
    with pytest.raises(UserError, match="no preset 'digits'"):
        get_config("multitask", "digits+rotation")
    for changes, words in (
        ({"tasks": {}}, "at least one task"),
        ({"weights": {"rotation": 1.0}}, "each its weight"),
        ({"lead": "rotatoin"}, "Did you mean 'rotation'"),
    ):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(method(), **changes).check(32, 32, 3)
    labels = {"supervised": build.method({"name": "supervised"}, method().backbone)}
    with pytest.raises(UserError, match="uses labels"):
        dataclasses.replace(method(), tasks=labels, weights={"supervised": 1.0}, lead="supervised").check(32, 32, 3)
