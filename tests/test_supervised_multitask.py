"""Several labelled targets on one backbone: the weighted loss against NumPy, tasks alone, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.evals import context, own_masks, pretext
from ssl_jax.methods.combine import supervised_multitask as tasks
from ssl_jax.methods.contract import Info
from ssl_jax.models.convnet import ConvNet
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
NAME = "supervised_multitask"


def softmax_loss(x, y):
    """Mean cross-entropy of rows [n, C], and its gradient."""
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    hot = np.eye(x.shape[-1])[y]
    return -np.log((p * hot).sum(-1)).mean(), (p - hot) / len(x)


def numpy_loss(task, x, y):
    """Loss of one image [H, W, C] and its gradient, from the formulas of the papers."""
    grad = np.zeros_like(x)
    if task == "segmentation":
        known = y >= 0
        loss, grad[known] = softmax_loss(x[known], y[known])
    if task == "depth":  # Eigen et al. 2014, eq. 4, lambda 1/2
        known = y > 0
        e, n = x[known][:, 0] - np.log(y[known]), known.sum()
        loss = (e**2).mean() - 0.5 * e.mean() ** 2
        grad[known] = ((2 * e - e.mean()) / n)[:, None]
    if task == "normals":  # one minus the cosine
        known = np.abs((y**2).sum(-1) - 1) < 0.02
        v, n = x[known], known.sum()
        length = np.linalg.norm(v, axis=-1, keepdims=True)
        cosine = (v * y[known]).sum(-1, keepdims=True) / length
        loss = (1 - cosine).mean()
        grad[known] = -(y[known] / length - cosine * v / length**2) / n
    if task == "boundaries":  # Xie & Tu 2015, eq. 2
        known, edge = y >= 0, y >= 0.5
        n, beta = known.sum(), (known & ~edge).sum() / known.sum()
        p = 1 / (1 + np.exp(-x[..., 0]))
        losses = np.where(edge, -beta * np.log(p), -(1 - beta) * np.log(1 - p))
        loss = losses[known].sum() / n
        grad[..., 0] = known * np.where(edge, -beta * (1 - p), (1 - beta) * p) / n
    return loss, grad


def drawn(rng, task):
    """Answers of three images of 5x7 pixels, and truths of which some pixels are unknown."""
    channels = tasks.DENSE[task].channels or 4
    x = rng.normal(size=(3, 5, 7, channels))
    hole = rng.random((3, 5, 7)) < 0.2
    if task == "normals":
        y = rng.normal(size=(3, 5, 7, 3))
        y /= np.linalg.norm(y, axis=-1, keepdims=True)
        y[hole] = -1
        return x, y
    y = rng.integers(0, 4, hole.shape) if task == "segmentation" else rng.uniform(0.1, 3, hole.shape)
    y = np.where(rng.random(hole.shape) < 0.3, 1.0, 0.0) if task == "boundaries" else y
    return x, np.where(hole, -1, y)


@pytest.mark.fast
@pytest.mark.parametrize("task", tasks.DENSE)
def test_losses_and_gradients_are_those_of_the_formulas(task):
    """Of each image over its own known pixels, so that an image with many unknown ones weighs as much."""
    x, y = drawn(np.random.default_rng(0), task)
    values, pull = jax.vjp(lambda x: tasks.image_losses(task, x, jnp.asarray(y)), jnp.asarray(x, jnp.float32))
    (grads,) = pull(jnp.ones(3))
    for i in range(3):
        loss, grad = numpy_loss(task, x[i], y[i])
        np.testing.assert_allclose(values[i], loss, rtol=1e-5)
        np.testing.assert_allclose(grads[i], grad, atol=1e-6)


@pytest.fixture(scope="module")
def begun():
    run = tiny.run(NAME)
    return run, run.init(), tiny.batch_of(run, 8)


def test_the_loss_is_the_weighted_sum_and_so_is_the_gradient(begun):
    """Each head's gradient and value are those that it has alone, times its weight; the backbone's add up."""
    run, ts, batch = begun
    weights = (0.5, 2.0, 0.0, 1.0, 3.0)
    joint = dataclasses.replace(run.method, weights=weights)

    def graded(method):
        loss = tiny.loss_function(run, method)
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(ts.params, ts.state, batch)

    (value, (_, metrics)), grads = graded(joint)
    total, backbone = 0.0, None
    for weight, task in zip(weights, run.method.labels, strict=True):
        alone = dataclasses.replace(run.method, labels=(task,))
        params = {name: ts.params[name] for name in ("backbone", task)}
        state = {"stats": {name: ts.state["stats"][name] for name in ("backbone", task) if name in ts.state["stats"]}}
        loss = tiny.loss_function(run, alone)
        (own, _), own_grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, state, batch)
        np.testing.assert_allclose(metrics[f"{task}_loss"], own, rtol=1e-5)
        jax.tree.map(
            lambda a, b, w=weight: np.testing.assert_allclose(a, w * b, rtol=1e-3, atol=1e-5),
            grads[task],
            own_grads[task],
        )
        total += weight * own
        scaled = jax.tree.map(lambda g, w=weight: w * g, own_grads["backbone"])
        backbone = scaled if backbone is None else jax.tree.map(jnp.add, backbone, scaled)
    np.testing.assert_allclose(value, total, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads["backbone"], backbone)


def test_evaluations_measure_each_task_on_test_images(begun):
    """Those of its own: the losses of all tasks, so that a run of one can be compared, and the masks."""
    run, ts, _ = begun
    networks = {"pretrained": context.Network(run, ts), "untrained": context.Network(run, ts)}
    what = context.Context(networks, (run.train, run.test), None)
    found = {r.name: r for r in pretext.measure(what)}
    assert {f"pretext/{task}_loss" for task in run.method.labels} <= set(found)
    assert found["pretext/segmentation_loss"].chance == pytest.approx(np.log(4))
    assert found["pretext/depth_loss"].chance is None
    masks = {r.name for r in own_masks.measure(what)}
    assert "own_masks/miou" in masks
    images = jnp.zeros((2, 48, 48, 3))
    assert run.method.predict(ts.params, ts.state, images).shape == (2, 4)
    alone = dataclasses.replace(run.method, labels=("depth",))
    assert alone.predict(ts.params, ts.state, images) is None and alone.segment(ts.params, ts.state, images) is None
    assert alone.chance(run.info) is None and run.method.chance(run.info) is None
    labelled = dataclasses.replace(run.method, labels=("class", "segmentation"), weights=(2.0, 1.0))
    assert labelled.chance(run.info) == pytest.approx(3 * np.log(4))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ("depht",)}, "Did you mean 'depth'"),
        ({"labels": ()}, "name at least one"),
        ({"labels": ("depth", "depth")}, "each once"),
        ({"weights": (1.0,)}, "1 numbers for 5 tasks"),
        ({"view": dataclasses.replace(tasks.CROP, flip=0.5, order=("crop", "flip"))}, "would turn normals round"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, words):
    method = tasks.SupervisedMultitask(ConvNet(4), **changes)
    with pytest.raises(UserError, match=words):
        method.check(64, 64, 3)
    with pytest.raises(UserError, match="have no labels"):
        tasks.SupervisedMultitask(ConvNet(4))._heads(Info(10, 2, 1, 1))
