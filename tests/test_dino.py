"""DINO against reference numbers, closed forms and its authors' order of updates."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import generator

from ssl_jax import dist, models, optim
from ssl_jax.methods.contract import Info
from ssl_jax.methods.joint.byol import target_decay
from ssl_jax.methods.joint.dino import DINO, distillation_loss, moved_centre, teacher_temperature
from ssl_jax.models.heads import DINOHead
from ssl_jax.models.vit import ViT
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

KEY = jax.random.key(0)


pytestmark = pytest.mark.usefixtures("quick_compilation")


def value(student, teacher, centre, teacher_temp=0.04):
    with jax.enable_x64(True):
        arrays = (jnp.asarray(x, float) for x in (student, teacher, centre))
        return float(distillation_loss(*arrays, student_temp=0.1, teacher_temp=teacher_temp)[0])


def numpy_loss(student, teacher, centre, student_temp=0.1, teacher_temp=0.04):
    """Pair by pair and image by image."""

    def log_softmax(x):
        x = x - x.max()
        return x - np.log(np.exp(x).sum())

    terms = []
    for a in range(len(teacher)):
        for v in range(len(student)):
            for b in range(len(teacher[a])) if v != a else ():
                p = np.exp(log_softmax((teacher[a][b] - centre) / teacher_temp))
                terms.append(-np.sum(p * log_softmax(student[v][b] / student_temp)))
    return np.mean(terms)


# The loss, the centre and the schedule.


@pytest.mark.fast
def test_agrees_with_the_reference(golden):
    """Three batches at epochs 0, 5 and 20, each with the centre that the one before left behind."""
    with np.load(golden / "dino_warmup0.04_to_0.07_in10_center0.9.npz") as ref:
        student = jnp.stack([ref[f"student{i}"] for i in range(4)])
        teacher = jnp.stack([ref["teacher0"], ref["teacher1"]])
        centre = jnp.zeros(40)
        for i, epoch in enumerate((0, 5, 20)):
            temp = teacher_temperature(jnp.asarray(epoch), 0.04, 0.07, 10)
            loss, _ = distillation_loss(student, teacher, centre, student_temp=0.1, teacher_temp=temp)
            assert abs(loss - ref[f"loss_epoch{epoch}"]) <= 1e-5 * ref[f"loss_epoch{epoch}"]
            centre = moved_centre(centre, teacher, 0.9)
            expected = ref[f"center_after{i}"].ravel()
            assert np.abs(centre - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.fast
def test_has_the_values_of_the_specification():
    teacher = [generator(4, 5, s) for s in (0.2, 0.8)]
    student = [generator(4, 5, s) for s in (0.3, 0.6, 1.9)]
    centre = 0.05 * np.arange(5)
    assert value(student, teacher, centre) == pytest.approx(4.935254, abs=1e-6)
    moved = moved_centre(jnp.asarray(centre), jnp.asarray(np.stack(teacher)), 0.9)
    np.testing.assert_allclose(moved, [0.077007, 0.062847, 0.033945, 0.084013, 0.213428], atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("views", [2, 3, 10])
def test_agrees_with_numpy(views):
    rng = np.random.default_rng(views)
    student, teacher, centre = rng.normal(size=(views, 3, 6)), rng.normal(size=(2, 3, 6)), rng.normal(size=6)
    student[0, 1], teacher[1, 2] = 0.3, -0.2  # constant rows
    assert value(student, teacher, centre) == pytest.approx(numpy_loss(student, teacher, centre), rel=1e-12)
    order = [2, 0, 1]
    assert value(student[:, order], teacher[:, order], centre) == pytest.approx(value(student, teacher, centre))
    student[:2] = student[:2][::-1]  # the global views swapped in both
    assert value(student, teacher[::-1], centre) == pytest.approx(numpy_loss(student, teacher[::-1], centre))


@pytest.mark.fast
def test_gradient_is_that_of_the_students_cross_entropies():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        student, teacher, centre = (jnp.asarray(rng.normal(size=s)) for s in ((4, 3, 6), (2, 3, 6), (6,)))

        def loss(s, t, c):
            return distillation_loss(s, t, c, student_temp=0.1, teacher_temp=0.04)[0]

        to_student, to_teacher, to_centre = jax.grad(loss, (0, 1, 2))(student, teacher, centre)
        np.testing.assert_array_equal(to_teacher, 0)
        np.testing.assert_array_equal(to_centre, 0)
        p_t, p_s = jax.nn.softmax((teacher - centre) / 0.04), jax.nn.softmax(student / 0.1)
        pairs = jnp.array([[0, 1], [1, 0], [1, 1], [1, 1]])  # which teacher views each student view is compared with
        expected = jnp.einsum("va,vabk->vbk", pairs, p_s[:, None] - p_t[None]) / 0.1 / (6 * 3)
        np.testing.assert_allclose(to_student, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.fast
def test_closed_forms():
    flat = np.zeros((2, 3, 5))
    assert value(flat, flat, np.zeros(5)) == pytest.approx(math.log(5), rel=1e-12)
    assert DINO(None, out=65536).chance(Info(1, 1, 1, 1)) == pytest.approx(11.090355, abs=1e-6)
    # Both certain of the same prototype.
    certain = np.tile([9.0, 0, 0], (2, 3, 1))
    assert value(certain, certain, np.zeros(3)) == pytest.approx(0, abs=1e-12)
    # Without a centre the teacher's probabilities are those of its logits.
    logits = jnp.asarray(generator(4, 5, 0.2)[None])
    _, p = distillation_loss(jnp.concatenate([logits, logits]), logits, 0.0, student_temp=0.1, teacher_temp=0.04)
    np.testing.assert_allclose(p, jax.nn.softmax(logits / 0.04), rtol=1e-6)


@pytest.mark.fast
def test_teacher_temperature_warms_up_by_the_epoch():
    temps = [float(teacher_temperature(jnp.asarray(e), 0.04, 0.07, 30)) for e in range(40)]
    np.testing.assert_allclose(temps, [*np.linspace(0.04, 0.07, 30), *[0.07] * 10], rtol=1e-5)
    for warmup, expected in ((0, [0.07, 0.07]), (1, [0.04, 0.07])):
        temps = [float(teacher_temperature(jnp.asarray(e), 0.04, 0.07, warmup)) for e in (0, 1)]
        np.testing.assert_allclose(temps, expected, rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("devices", [2, 8])
def test_the_centre_is_of_the_global_batch(devices):
    teacher = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 5)), jnp.float32)
    mesh = dist.make_mesh(jax.devices()[:devices])
    centre = jnp.arange(5.0)
    mapped = dist.map_replicas(lambda t: moved_centre(centre, t, 0.9, dist.AXIS), mesh, (P(None, dist.AXIS),), P())
    np.testing.assert_allclose(mapped(teacher), moved_centre(centre, teacher, 0.9), rtol=1e-5)


# The head.


@pytest.mark.fast
def test_head_is_the_authors():
    shapes = jax.eval_shape(functools.partial(DINOHead().init, train=True), KEY, jnp.zeros((1, 384)))["params"]
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert count == 22_352_128 - 65_536  # less the frozen gains
    with_gain = jax.eval_shape(
        functools.partial(DINOHead(unit_prototypes=False).init, train=True), KEY, jnp.zeros((1, 384))
    )["params"]
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(with_gain)) == 22_352_128


@pytest.mark.fast
def test_head_gives_cosines():
    head = DINOHead((8,), 4, 6)
    x = jnp.asarray(generator(3, 5, 0.1), jnp.float32)
    params = head.init(KEY, x, train=True)["params"]
    scores = np.asarray(head.apply({"params": params}, x, train=True))
    hidden = np.asarray(x) @ params["dense1"]["kernel"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    z = hidden @ params["bottleneck"]["kernel"]
    v = np.asarray(params["last_layer"]["kernel"])
    expected = z / np.linalg.norm(z, axis=1, keepdims=True) @ (v / np.linalg.norm(v, axis=0))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    longer = {**params, "last_layer": {"kernel": 7 * params["last_layer"]["kernel"]}}
    np.testing.assert_allclose(head.apply({"params": longer}, x, train=True), scores, rtol=1e-5, atol=1e-6)
    gain = {**params, "last_layer": {"kernel": 7 * v, "gain": jnp.full((1, 6), 2.0)}}
    doubled = DINOHead((8,), 4, 6, unit_prototypes=False).apply({"params": gain}, x, train=True)
    np.testing.assert_allclose(doubled, 2 * scores, rtol=1e-5, atol=1e-6)


# The method.


@functools.cache
def begun():
    """A run, its state after two updates, and the loss as a function of the step."""
    run, _, _ = tiny.compiled("dino")
    ts, _ = tiny.steps("dino", 2)
    return run, ts, jax.jit(tiny.loss_function(run)), tiny.batch_of(run, 8)


def test_the_centre_in_the_loss_is_the_old_one():
    run, ts, loss, batch = begun()
    found, (state, metrics) = loss(ts.params, ts.state, batch)
    old, new = ts.state["centre"], state["centre"]
    assert np.abs(new - old).max() > 1e-3
    # Nine tenths of the old one, and a mean of logits that does not depend on it.
    other = {**ts.state, "centre": old + 1.0}
    same, (shifted, _) = loss(ts.params, other, batch)
    np.testing.assert_allclose(shifted["centre"] - new, run.method.centre_momentum, rtol=1e-4)
    np.testing.assert_allclose(same, found, rtol=1e-5)  # a softmax does not see a constant
    tilted = {**ts.state, "centre": new}
    assert abs(loss(ts.params, tilted, batch)[0] - found) > 1e-4
    np.testing.assert_allclose(found, metrics["kl"] + metrics["teacher_entropy"], rtol=1e-5)


def test_the_teacher_moves_after_the_optimiser_and_is_evaluated():
    run, ts, loss, batch = begun()
    total = run.info.total_steps
    before = ts.state["teacher"]["params"]
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), before, ts.params))) > 1e-3
    _, (state, _) = loss(ts.params, ts.state, batch)
    tiny.assert_same(jax.device_get(state["teacher"]["params"]), before)
    for step in (0, total // 2, total):
        m = float(target_decay(run.method.tau, step, total))
        expected = jax.tree.map(lambda a, b, m=m: m * a + (1 - m) * b, before, ts.params)
        params, after = run.method.after_update(ts.params, ts.state, jnp.asarray(step), run.info)
        tiny.assert_close(after["teacher"]["params"], expected, 1e-5)
        assert params is ts.params
    images = batch["global1"]
    ours = tiny.features(run.method, ts.params, ts.state, images)
    np.testing.assert_array_equal(ours, tiny.features(run.method, tiny.fresh(run).params, ts.state, images))
    variables = {"params": before["backbone"], "batch_stats": ts.state["teacher"]["stats"]["backbone"]}
    np.testing.assert_allclose(ours, run.method.backbone.apply(variables, images, train=False), rtol=1e-5)
    student = tiny.features(dataclasses.replace(run.method, evaluate_teacher=False), ts.params, ts.state, images)
    variables = {"params": ts.params["backbone"], "batch_stats": ts.state["stats"]["backbone"]}
    np.testing.assert_allclose(student, run.method.backbone.apply(variables, images, train=False), rtol=1e-5)
    assert np.abs(student - ours).max() > 1e-3


def test_the_teacher_starts_as_the_student():
    run, _, _, _ = begun()
    ts = tiny.fresh(run)
    tiny.assert_same(ts.state["teacher"]["params"], ts.params)
    assert not ts.state["centre"].any()


def test_the_last_layer_rests_for_an_epoch():
    run, _, _, _ = begun()
    labels = run.method.groups(tiny.fresh(run).params)
    assert set(jax.tree.leaves(labels["head"]["last_layer"])) == {"last_layer"}
    del labels["head"]["last_layer"]
    assert set(jax.tree.leaves(labels)) == {"default"}
    first = tiny.fresh(run).params["head"]
    epoch = run.info.steps_per_epoch
    params = {"default": jnp.ones(3), "last_layer": jnp.ones(3)}
    optimizer, _ = optim.build(run.config.optim, {k: k for k in params}, 16, epoch, run.info.total_steps)
    state = optimizer.init(params)
    for step in range(epoch + 1):
        updates, state = optimizer.update(params, state, params)
        assert np.any(updates["default"])
        assert np.any(updates["last_layer"]) == (step == epoch)
    assert first["last_layer"]["kernel"].shape == (run.method.bottleneck, run.method.out)


@functools.cache
def small_vit():
    """Two global and two smaller local crops through a ViT, with drop path in the student."""
    run, _, _, _ = begun()
    local = dataclasses.replace(run.method.local, size=4)
    backbone = ViT("vit_tiny", patch=4)
    return dataclasses.replace(run.method, backbone=backbone, local=local, drop_path=0.5)


def test_crops_of_two_sizes_and_drop_path():
    """The student drops paths by the example's key and the teacher does not; without training nobody does."""
    run, _, _, _ = begun()
    method = small_vit()
    run = dataclasses.replace(run, method=method)
    batch = tiny.batch_of(run, 4)
    assert {name: batch[name].shape[1] for name in method.views()} == {
        "global1": 8, "global2": 8, "local1": 4, "local2": 4
    }  # fmt: skip
    params, state = jax.jit(lambda: method.init(KEY, batch, run.info))()
    mesh = dist.make_mesh(jax.devices()[:2])

    @functools.partial(jax.jit, static_argnames="train")
    def loss(rng, batch, *, train=True):
        def replica(rng, batch):
            found, (moved, aux) = method.loss(
                params, state, batch, rng=rng, step=jnp.zeros((), int), info=run.info, train=train
            )
            return dist.mean(found), moved["centre"], aux.features

        specs = (P(), P(dist.AXIS))
        return jax.shard_map(replica, mesh=mesh, in_specs=specs, out_specs=(P(), P(), P(dist.AXIS)))(rng, batch)

    one, other = (loss(jax.random.key(i), batch) for i in (1, 2))
    assert abs(one[0] - other[0]) > 1e-4
    for a, b in zip(one[1:], other[1:], strict=True):  # the teacher's
        np.testing.assert_array_equal(a, b)
    order = jnp.array([2, 0, 3, 1])  # examples keep their keys when rows are permuted
    np.testing.assert_allclose(loss(jax.random.key(1), jax.tree.map(lambda x: x[order], batch))[0], one[0], rtol=1e-5)
    still = [loss(jax.random.key(i), batch, train=False)[0] for i in (1, 2)]
    assert still[0] == still[1]


@pytest.mark.fast
def test_recipes():
    config = get_config("dino", "imagenet")
    method = DINO(models.from_config(config.model), locals=config.method.locals)
    assert list(method.views()) == ["global1", "global2", *(f"local{i + 1}" for i in range(8))]
    for group, resting in (("default", 0.0), ("last_layer", 1.0)):
        c = config.optim[group]
        rate = optim.learning_rate(c, config.batch_size, 10, 1000)
        decay = optim.decay_rate(c, 1000)
        np.testing.assert_allclose([rate(jnp.asarray(s)) for s in (0, 100, 1000)], [0, 1e-3, 1e-6], rtol=1e-4)
        np.testing.assert_allclose([decay(jnp.asarray(s)) for s in (0, 500, 1000)], [0.04, 0.22, 0.4], rtol=1e-5)
        assert (c.name, c.exclude, c.clip_each, c.clip, c.frozen_epochs) == ("adamw", "1d", 3.0, 0.0, resting)
    assert get_config("dino", "cifar10_lightly").optim.last_layer.frozen_epochs == 0
    assert list(DINO(None, locals=0).views()) == ["global1", "global2"]
    unequal = dataclasses.replace(method, global2=dataclasses.replace(method.global2, size=192))
    with pytest.raises(UserError, match=r"global1\.size is 224 and global2\.size 192"):
        unequal.check(256, 256, 3)


def test_it_collapses_without_centring_or_without_sharpening():
    """To one prototype for all images without the centre, to all prototypes alike without the low temperature."""
    run = tiny.run("dino", batch_size=32, epochs=3)
    full = math.log(run.method.out)

    def after(**changes):
        _, _, _, metrics = tiny.overfit(run, 120, dataclasses.replace(run.method, **changes))
        return metrics[-1]

    right = after()
    assert right["mean_entropy"] > 0.5 * full and right["teacher_entropy"] < 0.8 * right["mean_entropy"]
    uncentred = after(centre_momentum=1.0)  # the centre stays at zero
    assert uncentred["mean_entropy"] < 0.2 * full
    blunt = after(teacher_temp=1.0, warmup_teacher_temp=1.0)
    assert blunt["teacher_entropy"] > 0.99 * full
