"""Continual learning: losses and measures against reference values, tasks that are never read again, and the method."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from test_evaluate import store
from test_metric_meta_adapt import wave2  # noqa: F401
import tiny

from ssl_jax import dist, evaluate, recipes
from ssl_jax.data.samplers import TaskSequence
from ssl_jax.methods.shared import remembering
from ssl_jax.metrics import continual
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError


def test_measures_agree(wave2):  # noqa: F811
    given = wave2("continual")
    matrix = given["accuracy_matrix"]
    assert continual.average_accuracy(matrix) == pytest.approx(float(given["average_accuracy"]), rel=1e-12)
    assert continual.backward_transfer(matrix) == pytest.approx(float(given["backward_transfer"]), rel=1e-12)
    assert continual.forgetting(matrix) == pytest.approx(float(given["forgetting"]), rel=1e-12)
    forward = continual.forward_transfer(matrix, given["random_accuracy"])
    assert forward == pytest.approx(float(given["forward_transfer"]), rel=1e-12)
    rising = np.array([[0.5, 0.2], [0.7, 0.9]])
    assert continual.forgetting(rising) == pytest.approx(-0.2)  # not cut off at zero, as where the last row counts


def test_distillations_agree(wave2):  # noqa: F811
    given = {name: jnp.asarray(x) for name, x in wave2("continual").items()}
    z = given["frozen_z1"], given["frozen_z2"]
    for name, loss in (
        ("contrastive", remembering.contrastive_distillation),
        ("predictive", remembering.predictive_distillation),
    ):
        value, grads = jax.value_and_grad(loss, (0, 1))(given["p1"], given["p2"], *z)
        np.testing.assert_allclose(value, given[f"cassle_{name}"], rtol=1e-7)
        for p, grad in zip(("p1", "p2"), grads, strict=True):
            if f"grad_{p}_{name}" in given:
                np.testing.assert_allclose(grad, given[f"grad_{p}_{name}"], atol=1e-8)
        frozen = jax.grad(loss, (2, 3))(given["p1"], given["p2"], *z)
        assert not any(np.any(np.asarray(x)) for x in frozen)
    value, grad = jax.value_and_grad(remembering.logit_distillation)(given["new_logits"], given["old_logits"])
    np.testing.assert_allclose(value, given["lwf_T2"], rtol=1e-9)
    np.testing.assert_allclose(grad, given["grad_new"], atol=1e-9)


def test_weights_are_consolidated_as_the_reference_has_it(wave2):  # noqa: F811
    given = {name: jnp.asarray(x) for name, x in wave2("continual").items()}

    def log_likelihood(weights, row):
        x, label = row
        return jax.nn.log_softmax(x @ weights)[label]

    found = remembering.fisher(log_likelihood, given["W"], (given["x"], given["y"]))
    np.testing.assert_allclose(found, given["fisher_empirical"], atol=1e-9)
    for name in ("true", "mammoth_weighted", "wrong_batch_gradient_squared"):
        assert np.abs(found - given[f"fisher_{name}"]).max() > 1e-3
    penalty = remembering.elastic_penalty(given["theta"], given["W"], given["fisher_true"], 10.0)
    np.testing.assert_allclose(penalty, given["ewc_penalty_half_lambda10_true"], rtol=1e-9)


def test_contrastive_distillation_is_that_of_the_whole_batch():
    draw = np.random.default_rng(0)
    w, x = draw.normal(size=(5, 4)), draw.normal(size=(4, 16, 5))

    def over(count):
        def replica(w, *x):
            def loss(w):
                views = [each @ w for each in x]
                return dist.mean(remembering.contrastive_distillation(*views, axis_name=dist.AXIS))

            value, grad = jax.value_and_grad(loss)(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:count])
        return dist.map_replicas(replica, mesh, (P(), *[P(dist.AXIS)] * 4), P())(w, *x)

    with jax.enable_x64(True):
        for found, wanted in zip(over(8), over(1), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


class Forgets:
    """Images of which some rows may no longer be read."""

    def __init__(self, count):
        self.over = np.zeros(count, bool)

    def __getitem__(self, rows):
        if self.over[rows].any():
            raise AssertionError("an image of a task that is over was read")
        return rows


@pytest.mark.fast
@pytest.mark.parametrize("memory", [0, 4])
def test_tasks_that_are_over_are_not_read_again(memory):
    tasks = tuple(np.arange(60) + 60 * number for number in range(3))
    sampler = TaskSequence(tasks, 16, 4, memory, 10 if memory else 0, even=True)
    images, total, before = Forgets(180), 4 * sampler.steps_per_epoch, 0
    counts = np.zeros(3, int)
    for step in range(total):
        task = sampler.task(step)
        for number in range(before, task):
            images.over[tasks[number]] = True
            if memory:
                images.over[sampler.remembered(7, number)] = False
        before = task
        counts[task] += 1
        for rows in sampler(7, step).values():
            images[rows]
    assert counts.max() - counts.min() <= 1  # all tasks have as many updates
    images.over[:] = True
    with pytest.raises(AssertionError, match="is over"):
        images[sampler(7, 0)["new" if memory else ""]]


def sequence(learner="simclr", **changes):
    config = recipes.get_config("sequence", f"digits+{learner}")
    config.batch_size, config.epochs, config.model.width = 16, 5, 4
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return prepare(config, jax.devices()[:1])


def made(run):
    loss, batch = tiny.loss_function(run), tiny.batch_of(run, 16)
    return run.init(), batch, jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("strategy", ["finetune", "distill"])
def test_the_first_task_is_the_learner_alone(strategy):
    run = sequence(**{"method.strategy": strategy})
    ts, batch, step = made(run)
    (value, _), grads = step(ts.params, ts.state, batch, 0)
    plain = jax.jit(jax.value_and_grad(tiny.loss_function(run, run.method.learner), has_aux=True))
    own = {name: x for name, x in ts.params.items() if name != "predictor"}
    (wanted, _), own_grads = plain(own, ts.state["learner"], batch, 0)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6)
    tiny.assert_close({name: grads[name] for name in own}, own_grads, 1e-5)


def test_distillation_begins_with_the_second_task_and_holds_the_network_before_it():
    run = sequence()
    ts, batch, step = made(run)
    end = -(-run.info.total_steps // 5)
    moved = jax.tree.map(lambda x: x + 0.05, ts.params)
    for number, kept in ((end - 2, False), (end - 1, True)):
        params, state = run.method.after_update(moved, ts.state, jnp.asarray(number), run.info)
        first = jax.tree.map(lambda x: x[0], state["after"]["params"])
        wanted = {name: (moved if kept else ts.params)[name] for name in first}
        tiny.assert_same(first, wanted)
        # A new task has the predictor as it began.
        tiny.assert_same(params["predictor"], (ts.params if kept else moved)["predictor"])
    (early, (_, before)), _ = step(params, state, batch, end - 1)
    (late, (_, then)), grads = step(params, state, batch, end)
    assert float(before["forgetting_loss"]) == 0 < float(then["forgetting_loss"])
    assert float(late) == pytest.approx(float(early) + float(then["forgetting_loss"]), rel=1e-5)
    assert any(np.any(np.asarray(x)) for x in jax.tree.leaves(grads["predictor"]))


@pytest.mark.parametrize("strategy", ["lwf", "ewc"])
def test_answers_and_weights_are_kept(strategy):
    run = sequence("supervised", **{"method.strategy": strategy, "method.weight": 3.0})
    ts, batch, step = made(run)
    end = -(-run.info.total_steps // 5)
    (_, (state, metrics)), _ = step(ts.params, ts.state, batch, end - 1)
    assert float(metrics["forgetting_loss"]) == 0
    params, state = run.method.after_update(ts.params, state, jnp.asarray(end - 1), run.info)
    if strategy == "ewc":
        largest = max(float(jnp.max(x)) for x in jax.tree.leaves(state["importance"]))
        assert largest > 0 and not any(np.any(np.asarray(x)) for x in jax.tree.leaves(state["now"]))
    (same, (_, metrics)), grads = step(params, state, batch, end)
    away = jax.tree.map(lambda x: x + 0.1, params)
    (far, (_, further)), pulled = step(away, state, batch, end)
    assert float(further["forgetting_loss"]) > float(metrics["forgetting_loss"]) >= 0
    assert np.isfinite([float(same), float(far)]).all()
    if strategy == "ewc":
        assert float(metrics["forgetting_loss"]) == 0  # nothing has moved
    del grads, pulled


def test_images_are_divided_by_class_domain_or_chance():
    run = sequence()
    method, labels = run.method, run.train.labels
    np.testing.assert_array_equal(method.task_of(run.train), labels // 2)
    by_chance = dataclasses.replace(method, by="data").task_of(run.train)
    assert np.ptp(np.bincount(by_chance)) <= 1 and len(set(by_chance[labels == 0])) == 5
    domains = dataclasses.replace(run.train, fields={"domain": (np.arange(len(labels)) % 2).astype(np.int32)})
    two = dataclasses.replace(method, by="domain", task_count=2)
    np.testing.assert_array_equal(two.task_of(domains), np.arange(len(labels)) % 2)
    for wrong, words in ((method, "5, and the images have 2 domains"), (two, "2, and the images have 1 domains")):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(wrong, by="domain").task_of(domains if wrong is method else run.train)
    with pytest.raises(UserError, match="too few for 11 tasks"):
        dataclasses.replace(method, task_count=11).task_of(run.train)


def test_replay_and_joint_training():
    run = sequence(**{"method.strategy": "replay", "method.memory": 4, "method.kept": 20})
    assert run.sampler.parts == {"new": (12,), "memory": (4,)}
    ts, batch, step = made(run)
    (value, _), _ = step(ts.params, ts.state, batch, 0)
    assert np.isfinite(float(value))
    joint = sequence(**{"method.strategy": "joint"})
    assert len(set(joint.train.labels[joint.sampler(0, 0)[""]])) > 2


@pytest.mark.fast
@pytest.mark.parametrize(
    ("learner", "change", "words"),
    [
        ("rotation", {}, "no `embed`"),
        ("simclr", {"method.strategy": "lwf"}, "for classifiers"),
        ("simclr", {"method.strategy": "distil"}, "Did you mean 'distill'"),
        ("simclr", {"method.memory": 4}, "replay, and it alone"),
        ("simclr", {"method.task_count": 1}, "two or more"),
        ("protonet", {"method.strategy": "finetune"}, "images of all tasks"),
    ],
)
def test_what_cannot_be_is_refused(learner, change, words):
    with pytest.raises(UserError, match=words):
        sequence(learner, **change)


def test_names_of_learners_are_checked():
    for preset, words in (("digits+simclear", "Did you mean 'simclr'"), ("digits+simclr+byol", "name one")):
        with pytest.raises(UserError, match=words):
            recipes.get_config("sequence", preset)


def test_the_matrix_of_a_run(tmp_path, capsys):
    run = tiny.run("sequence", 1)
    ts, _ = tiny.steps("sequence", 2)
    store(run, ts, tmp_path / "run")
    assert evaluate.main([f"--workdir={tmp_path / 'run'}", "--evals=forgetting"]) == 0
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    matrix = np.array([[stored[f"forgetting/after_{i}/task_{j}"] for j in range(5)] for i in range(5)])
    assert stored["forgetting/average"] == pytest.approx(matrix[-1].mean())
    assert stored["forgetting/forgetting"] == pytest.approx(continual.forgetting(matrix))
    assert "after task 4" in capsys.readouterr().out
    other = tiny.run("rotation", 1)
    store(other, tiny.steps("rotation", 1)[0], tmp_path / "other")
    assert evaluate.main([f"--workdir={tmp_path / 'other'}", "--evals=forgetting"]) == 2
    assert "a run of rotation" in capsys.readouterr().err


def test_info_is_enough_to_know_the_tasks():
    """The method's tasks are the sampler's."""
    run = sequence()
    for step in range(0, run.info.total_steps, 7):
        assert int(run.method._task(jnp.asarray(step), run.info)) == run.sampler.task(step)
