"""S4L: which labels are used, its losses and its triplets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
from tiny import generator

from ssl_jax import dist, models
from ssl_jax.methods import build, contract
from ssl_jax.methods.pretext.rotation import rotations
from ssl_jax.methods.semi import s4l
from ssl_jax.methods.shared.few_labels import labelled_rows
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_a_fraction_of_the_labels_of_each_class_is_used_always_the_same():
    labels = np.repeat(np.arange(10), 100)
    rows = labelled_rows(labels, 0.1)
    np.testing.assert_array_equal(np.bincount(labels[rows]), np.full(10, 10))
    np.testing.assert_array_equal(labelled_rows(labels, 0.1), rows)
    assert set(rows) < set(labelled_rows(labels, 0.2))  # more labels are these and others
    assert any(np.diff(rows[:10]) > 1)  # drawn, not the first
    assert len(labelled_rows(labels, 0.001)) == 10  # at least one of each
    np.testing.assert_array_equal(labelled_rows(labels, 1.0), np.arange(1000))
    unknown = np.where(np.arange(1000) % 2, labels, -1)
    assert (unknown[labelled_rows(unknown, 0.1)] >= 0).all() and len(labelled_rows(unknown, 0.1)) == 50
    assert len(labelled_rows(np.full(10, -1), 0.5)) == 0


@pytest.mark.fast
def test_half_of_a_batch_is_labelled():
    run = tiny.run("s4l")
    rows = run.sampler(0, 3)
    assert {name: len(x) for name, x in rows.items()} == {"labelled": 8, "unlabelled": 8}
    assert set(rows["labelled"]) <= set(labelled_rows(run.train.labels, 0.1))
    assert run.info.steps_per_epoch == -(-len(run.train.images) // 8)
    epoch = np.concatenate([run.sampler(0, step)["unlabelled"] for step in range(run.info.steps_per_epoch)])
    assert set(epoch) == set(range(len(run.train.images)))
    with pytest.raises(UserError, match="make it even"):
        tiny.run("s4l", batch_size=15)


batch_hard = jax.jit(s4l.batch_hard)


def numpy_batch_hard(z, labels):
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    terms, right = [], []
    for anchor, label in zip(z, labels, strict=True):
        d = np.linalg.norm(z - anchor, axis=1)
        gap = d[labels == label].max() - d[labels != label].min()
        terms.append(np.log1p(np.exp(gap)))
        right.append(gap < 0)
    return np.mean(terms), np.mean(right)


@pytest.mark.fast
def test_batch_hard_has_the_value_of_the_specification():
    points, labels = np.concatenate([generator(4, 3, 0.1), generator(4, 3, 0.9)]), np.tile(np.arange(4), 2)
    with jax.enable_x64(True):
        loss, top1 = batch_hard(jnp.asarray(points), jnp.asarray(labels))
    wanted, right = numpy_batch_hard(points, labels)
    assert float(loss) == pytest.approx(0.977175, abs=1e-6) == pytest.approx(wanted, rel=1e-6)
    assert float(top1) == right
    with jax.enable_x64(True):
        grad = jax.grad(lambda z: batch_hard(z, jnp.asarray(labels))[0])(jnp.asarray(points))
    direction = np.random.default_rng(1).normal(size=points.shape)
    there, here = (numpy_batch_hard(points + h * direction, labels)[0] for h in (1e-6, -1e-6))
    assert np.sum(np.asarray(grad) * direction) == pytest.approx((there - here) / 2e-6, rel=1e-5)


@pytest.mark.fast
def test_batch_hard_on_awkward_points():
    labels = jnp.asarray(np.tile(np.arange(4), 2))
    value = jax.jit(jax.value_and_grad(lambda z: s4l.batch_hard(z, labels)[0]))
    for z in (np.ones((8, 3)), np.zeros((8, 3))):  # all points equal: ln 2
        loss, grad = value(jnp.asarray(z, jnp.float32))
        assert float(loss) == pytest.approx(np.log(2), abs=1e-3) and np.isfinite(grad).all()
    # Copies together and images at right angles: what the method calls best.
    loss, _ = value(jnp.asarray(np.tile(np.eye(4), (2, 1)), jnp.float32))
    assert float(loss) == pytest.approx(s4l.S4L(None, task="exemplar").best(None), abs=1e-3)


@pytest.mark.fast
@pytest.mark.parametrize("devices", [2, 8])
def test_hard_triplets_are_those_of_the_global_batch(devices):
    tiny.assert_global_triplets(
        devices,
        lambda z, labels: s4l.batch_hard(z, labels, dist.AXIS)[0],
        lambda z, labels: numpy_batch_hard(z, labels)[0],
    )


def losses_of(name, **changes):
    """Value and gradient of a method's loss on a batch of 32, compiled, with its state and the batch."""
    run = tiny.run(name, batch_size=32, **changes)
    ts, batch = run.init(), tiny.batch_of(run, 32)
    return run, ts, batch, jax.jit(jax.value_and_grad(tiny.loss_function(run), has_aux=True))


def test_the_loss_is_the_authors():
    """Cross-entropy over the labelled half's rotations, and the mean of the rotation losses of the halves."""
    run, ts, batch, together = losses_of("s4l")
    (loss, (_, metrics)), _ = together(ts.params, ts.state, batch)
    halves = batch["labelled"]["view1"], batch["unlabelled"]["view1"]
    turned = [rotations(images).reshape(-1, *run.train.image_shape) for images in halves]
    variables = {"params": ts.params["backbone"], "batch_stats": ts.state["stats"]["backbone"]}

    def features(x):
        return run.method.backbone.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    h = jax.vmap(features, axis_name=dist.AXIS)(jnp.concatenate(turned)[None])[0]

    def cross_entropy(head, rows, labels):
        head = head["linear"]
        logits = np.asarray(h, np.float64)[rows] @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
        return np.mean(scipy.special.logsumexp(logits, 1) - logits[np.arange(len(logits)), labels])

    count = len(turned[0])
    first, second = slice(0, count), slice(count, None)
    labels = np.repeat(np.asarray(batch["labelled"]["label"]), 4)
    turns = np.tile(np.arange(4), count // 4)
    label_loss = cross_entropy(ts.params["classifier"], first, labels)
    rotation = [cross_entropy(ts.params["rotation"], rows, turns) for rows in (first, second)]
    np.testing.assert_allclose(metrics["label_loss"], label_loss, rtol=1e-5)
    np.testing.assert_allclose(loss, label_loss + np.mean(rotation), rtol=1e-5)
    # Without the second term its head does not learn.
    weightless = dataclasses.replace(run.method, weight=0.0)
    grads = jax.jit(jax.grad(tiny.loss_function(run, weightless), has_aux=True))(ts.params, ts.state, batch)[0]
    assert not any(np.any(x) for x in jax.tree.leaves(grads["rotation"]))
    assert any(np.any(x) for x in jax.tree.leaves(grads["classifier"]))


def test_labels_of_the_unlabelled_half_are_not_seen():
    _, ts, batch, together = losses_of("s4l")
    once = float(together(ts.params, ts.state, batch)[0][0])

    def other(part):
        return batch | {part: batch[part] | {"label": 9 - batch[part]["label"]}}

    assert float(together(ts.params, ts.state, other("unlabelled"))[0][0]) == once
    assert float(together(ts.params, ts.state, other("labelled"))[0][0]) != once


@functools.cache
def method(**changes):
    c = get_config("s4l", "digits")
    return dataclasses.replace(build.method(c.method, models.from_config(c.model)), **changes)


def test_exemplar_averages_over_copies():
    run = tiny.run("s4l", **{"method.task": "exemplar", "method.copies": 3, "method.embedding": 16})
    assert list(run.method.views()) == ["view1", "view2", "view3"]
    ts, batch = run.init(), tiny.batch_of(run, 16)
    assert ts.params["exemplar"]["out"]["kernel"].shape[1] == 16
    together = jax.jit(tiny.loss_function(run))
    loss, (_, metrics) = together(ts.params, ts.state, batch)
    assert np.isfinite(loss) and 0 <= float(metrics["exemplar_top1"]) <= 1
    swapped = {name: part | {"view1": part["view3"], "view3": part["view1"]} for name, part in batch.items()}
    np.testing.assert_allclose(together(ts.params, ts.state, swapped)[0], loss, rtol=1e-5)
    info = contract.Info(10, 2, 5, 5, 10)
    assert run.method.chance(info) == pytest.approx(np.log(10) + np.log(2))
    assert run.method.best(info) == pytest.approx(np.log1p(np.exp(-(2**0.5))))


def test_pictures():
    run = tiny.compiled("s4l")[0]
    ts = tiny.fresh(run)
    batch = tiny.batch_of(run, 16)
    (picture,) = run.method.pictures(ts.params, ts.state, batch, rng=jax.random.key(0))
    tiny.assert_picture(picture)
    assert picture.captions[0][0].startswith(f"class {batch['labelled']['label'][0]}, network: ")


@pytest.mark.fast
def test_what_has_no_meaning_is_refused():
    for changes, words in (
        ({"task": "jigsaw"}, "'rotation' or 'exemplar'"),
        ({"task": "exemplar"}, "need a pair"),
        ({"label_fraction": 0.0}, "above 0"),
    ):
        with pytest.raises(UserError, match=words):
            method(**changes).check(8, 8, 1)
    batch = {"view1": jnp.zeros((2, 8, 8, 1))}
    with pytest.raises(UserError, match="needs labels"):
        jax.eval_shape(lambda: method().init(jax.random.key(0), batch, contract.Info(10, 2, 5, 5, 0)))
