"""S4L: which labels are used, its triplets, and the supervised baseline that it is without its second term."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import generator

from ssl_jax import dist, models
from ssl_jax.methods import build, contract
from ssl_jax.methods.combine.supervised import Supervised
from ssl_jax.methods.pretext.rotation import rotations
from ssl_jax.methods.semi import s4l
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_a_fraction_of_the_labels_is_used_always_the_same():
    known = s4l.labelled(1000, 0.1)
    assert known.dtype == bool and known.sum() == 100
    np.testing.assert_array_equal(s4l.labelled.__wrapped__(1000, 0.1), known)
    assert s4l.labelled(1000, 0.2)[known].all()  # more labels are these and others
    assert s4l.labelled(10, 0.001).sum() == 1 and s4l.labelled(7, 1.0).all()
    assert 20 < known[:500].sum() < 80  # images come sorted by class


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


def test_without_the_second_term_it_is_the_supervised_baseline():
    """Loss, gradient and statistics are those of `supervised` on the same rotations, with the other labels unknown."""
    run = tiny.compiled("s4l")[0]
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 32)
    baseline = dataclasses.replace(run.method, weight=0.0)
    together = jax.jit(jax.value_and_grad(tiny.loss_function(run, baseline), has_aux=True))
    (loss, (state, metrics)), grads = together(ts.params, ts.state, batch)
    known = s4l.labelled(run.info.num_examples, 0.1)[:32]
    assert 0 < known.sum() < 16
    labels = jnp.where(known, batch["label"], -1)
    turned = rotations(batch["view1"]).reshape(-1, *batch["view1"].shape[1:])
    position = jnp.arange(4 * 32)
    rows = {"view": turned, "label": jnp.repeat(labels, 4), "index": position, "position": position}
    supervised = Supervised(backbone=run.method.backbone)
    own = {name: ts.params[name] for name in ("backbone", "classifier")}
    stats = {name: ts.state["stats"][name] for name in own}
    alone = jax.jit(jax.value_and_grad(tiny.loss_function(run, supervised), has_aux=True))
    (wanted, (wanted_state, wanted_metrics)), wanted_grads = alone(own, {"stats": stats}, rows)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    np.testing.assert_allclose(metrics["label_top1"], wanted_metrics["supervised_top1"], rtol=1e-6)
    tiny.assert_close({name: grads[name] for name in own}, wanted_grads, 1e-5)
    tiny.assert_close({name: state["stats"][name] for name in own}, wanted_state["stats"], 1e-6)
    assert not any(np.any(x) for x in jax.tree.leaves(grads["rotation"]))
    # Labels that are not to be known change nothing; a known one does.
    full = jax.jit(tiny.loss_function(run))
    once = float(full(ts.params, ts.state, batch)[0])
    others = {**batch, "label": jnp.where(known, batch["label"], 9 - batch["label"])}
    assert float(full(ts.params, ts.state, others)[0]) == once
    assert float(full(ts.params, ts.state, {**batch, "label": 9 - batch["label"]})[0]) != once
    # The class that is most frequent among those of the other half of the batch, counted by hand.
    own, even = np.asarray(batch["label"])[known], np.flatnonzero(known) % 2 == 0
    modes = [np.bincount(own[half]).argmax() for half in (~even, even)]
    wanted = np.mean(np.where(even, own == modes[0], own == modes[1]))
    np.testing.assert_allclose(metrics["label_top1/chance"], wanted, rtol=1e-6)


def test_a_batch_without_labels_learns_the_task_alone():
    run = tiny.compiled("s4l")[0]
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 32)
    _, (_, metrics) = jax.jit(tiny.loss_function(run))(ts.params, ts.state, {**batch, "label": jnp.full(32, -1)})
    assert float(metrics["label_loss"]) == 0.0 and np.isfinite(float(metrics["label_top1/chance"]))


@functools.cache
def method(**changes):
    c = get_config("s4l", "digits")
    return dataclasses.replace(build.method(c.method, models.from_config(c.model)), **changes)


def test_exemplar_averages_over_copies():
    run = tiny.run("s4l", **{"method.task": "exemplar", "method.copies": 3, "method.embedding": 16})
    assert list(run.method.views()) == ["view1", "view2", "view3"]
    ts, batch = run.init(), tiny.batch_of(run, 16)
    assert ts.params["exemplar"]["out"]["kernel"].shape[1] == 16
    loss, (_, metrics) = jax.jit(tiny.loss_function(run))(ts.params, ts.state, batch)
    assert np.isfinite(loss) and 0 <= float(metrics["exemplar_top1"]) <= 1
    swapped = {**batch, "view1": batch["view3"], "view3": batch["view1"]}
    np.testing.assert_allclose(jax.jit(tiny.loss_function(run))(ts.params, ts.state, swapped)[0], loss, rtol=1e-5)
    info = contract.Info(10, 2, 5, 5, 10)
    assert run.method.chance(info) == pytest.approx(np.log(10) + np.log(2))
    assert run.method.best(info) == pytest.approx(np.log1p(np.exp(-(2**0.5))))


def test_pictures():
    run = tiny.compiled("s4l")[0]
    ts = tiny.fresh(run)
    (picture,) = run.method.pictures(ts.params, ts.state, tiny.batch_of(run, 16), rng=jax.random.key(0))
    tiny.assert_picture(picture)
    assert picture.captions[0][0].startswith(f"class {run.train.labels[0]}, network: ")


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
