"""Exemplar-CNN: its transformations, its triplet loss, and its collapse without negatives."""

import colorsys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny
from tiny import generator

from ssl_jax import dist, models
from ssl_jax.augment import ops
from ssl_jax.augment.render import render_batch
from ssl_jax.augment.view import View
from ssl_jax.methods import build, contract
from ssl_jax.methods.pretext import exemplar
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def photograph(channels=3):
    x = np.random.default_rng(0).uniform(size=(6, 5, channels)).astype(np.float32)
    x[0] = 0.4  # without chroma
    x[1, 0] = 0  # black
    return jnp.asarray(x)


# Transformations.

hsv_noise = jax.jit(ops.hsv_noise)
colour_components = jax.jit(ops.colour_components)


@pytest.mark.fast
@pytest.mark.parametrize("channels", [1, 3])
def test_without_strength_nothing_changes(channels):
    x = photograph(channels)
    none = View(
        size=5, crop="shift", pad=0, affine=1.0, pca=float(channels == 3), hsv=1.0,
        pca_sigma=(0.0, 0.0, 0.0), hsv_power=0.0, hsv_factor=0.0, hsv_offset=0.0, hsv_hue=0.0,
        order=("affine", "pca", "hsv", "crop"), mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    found = jax.jit(render_batch, static_argnums=0)(none, jax.random.split(jax.random.key(0), 1), x[None, :5])
    np.testing.assert_allclose(found[0], x[:5], atol=2e-6)


@pytest.mark.fast
def test_hsv_noise_is_that_of_the_formula():
    x = photograph()
    power, factor, offset, turn = np.float32([0.5, 2.0]), np.float32([1.2, 0.8]), np.float32([-0.1, 0.1]), 0.07
    found = np.asarray(hsv_noise(x, power, factor, offset, turn))
    for i, j in np.ndindex(6, 5):
        h, s, v = colorsys.rgb_to_hsv(*np.asarray(x[i, j], float))
        s, v = (np.clip(f * c**p + o, 0, 1) for c, p, f, o in zip((s, v), power, factor, offset, strict=True))
        np.testing.assert_allclose(found[i, j], colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=2e-6)
    gray = photograph(1)
    np.testing.assert_allclose(
        hsv_noise(gray, power, factor, offset, turn), np.clip(0.8 * gray**2 + 0.1, 0, 1), atol=1e-6
    )


@pytest.mark.fast
def test_colour_components_are_scaled_about_the_mean():
    vectors = np.array(ops.COLOUR_COMPONENTS)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)
    factor = np.float32([0.5, 2.0, 1.5])
    for i in range(3):
        along = np.float32(ops.COLOUR_MEAN) + np.float32(0.05 * vectors[:, i])
        found = colour_components(jnp.asarray(along)[None, None], factor)[0, 0]
        wanted = np.float32(ops.COLOUR_MEAN) + 0.05 * factor[i] * vectors[:, i]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (np.asarray(colour_components(photograph(), 50 * factor)).max((0, 1)) <= 1).all()


@pytest.mark.fast
def test_strengths_have_the_authors_ranges():
    """Of one gray pixel: v to 2^U(-.5, .5) v^(2^U(-2, 2)) + U(-.1, .1)."""
    draws = 4000
    view = View(size=1, crop="shift", pad=0, hsv=1.0, order=("crop", "hsv"), mean=(0.0,), std=(1.0,))
    x = jnp.full((draws, 1, 1, 1), 0.5)
    found = np.asarray(jax.jit(render_batch, static_argnums=0)(view, jax.random.split(jax.random.key(0), draws), x))
    rng, many = np.random.default_rng(0), 10**5
    power, factor = 2.0 ** rng.uniform(-2, 2, many), 2.0 ** rng.uniform(-0.5, 0.5, many)
    offset = rng.uniform(-0.1, 0.1, many)
    wanted = np.clip(factor * 0.5**power + offset, 0, 1)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.quantile(found, q) == pytest.approx(np.quantile(wanted, q), abs=0.03)


@pytest.mark.fast
def test_colours_are_refused_on_gray_images():
    view = View(size=5, crop="shift", pad=0, pca=1.0, order=("crop", "pca"), mean=(0.0,), std=(1.0,))
    with pytest.raises(UserError, match="pca"):
        view.check("view", 6, 5, 1)


# Triplets.


semi_hard = jax.jit(exemplar.semi_hard, static_argnames="axis_name")


def numpy_semi_hard(z, labels, margin):
    """As TensorFlow's contrib had it, one pair after the other."""
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    d = np.square(z[:, None] - z).sum(-1)
    terms, right = [], []
    for i, j in np.ndindex(d.shape):
        if i != j and labels[i] == labels[j]:
            negatives = d[i, labels != labels[i]]
            further = negatives[negatives > d[i, j]]
            terms.append(max(0.0, d[i, j] - (further.min() if len(further) else negatives.max()) + margin))
    for i, label in enumerate(labels):
        right.append(d[i, labels == label].max() < d[i, labels != label].min())
    return np.mean(terms), np.mean(right)


@pytest.mark.fast
@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("margin", [0.05, 0.5])
def test_semi_hard_is_that_of_the_formula(copies, margin):
    points = np.concatenate([generator(4, 3, 0.1 + 0.4 * i) for i in range(copies)])
    labels = np.tile(np.arange(4), copies)
    with jax.enable_x64(True):
        loss, top1 = semi_hard(jnp.asarray(points), jnp.asarray(labels), margin)
        grad = jax.grad(lambda z: semi_hard(z, jnp.asarray(labels), margin)[0])(jnp.asarray(points))
    wanted, right = numpy_semi_hard(points, labels, margin)
    assert float(loss) == pytest.approx(wanted, rel=1e-9) and float(top1) == right
    direction = np.random.default_rng(1).normal(size=points.shape)
    there, here = (numpy_semi_hard(points + h * direction, labels, margin)[0] for h in (1e-6, -1e-6))
    assert np.sum(np.asarray(grad) * direction) == pytest.approx((there - here) / 2e-6, rel=1e-5)


@pytest.mark.fast
def test_semi_hard_by_hand():
    """On the circle, at 0, 40 degrees (a pair), 30 (nearer than the positive) and 90 and 180 (further)."""
    angles, labels = np.deg2rad([0, 40, 30, 90, 180]), np.array([0, 0, 1, 2, 3])
    z = np.stack([np.cos(angles), np.sin(angles)], -1)

    def d(degrees):
        return 2 - 2 * np.cos(np.deg2rad(degrees))

    loss, top1 = semi_hard(jnp.asarray(z), jnp.asarray(labels), 2.0)
    # From 0 the nearest one beyond 40 is 90; from 40 it is 90, which is 50 away. The others have no positive.
    assert float(loss) == pytest.approx((d(40) - d(90) + 2 + d(40) - d(50) + 2) / 2, abs=1e-6)
    assert float(top1) == pytest.approx(3 / 5)  # those without a positive are not wrong
    # Where nothing is further than the positive, the furthest there is.
    loss, _ = semi_hard(jnp.asarray(z[[0, 4, 2, 3]]), jnp.asarray([0, 0, 1, 2]), 2.0)
    assert float(loss) == pytest.approx((d(180) - d(90) + 2 + d(180) - d(150) + 2) / 2, abs=1e-6)


def test_semi_hard_on_awkward_points():
    labels = jnp.asarray(np.tile(np.arange(4), 2))
    value = jax.jit(jax.value_and_grad(lambda z: exemplar.semi_hard(z, labels, 0.5)[0]))
    method = exemplar.Exemplar(None, triplet=4)
    for z in (np.ones((8, 3)), np.zeros((8, 3))):  # all points equal: the margin
        loss, grad = value(jnp.asarray(z, jnp.float32))
        assert float(loss) == pytest.approx(method.chance(None), abs=1e-3) and np.isfinite(grad).all()
    # Copies together and images at right angles: what the method calls best.
    loss, grad = value(jnp.asarray(np.tile(np.eye(4), (2, 1)), jnp.float32))
    assert float(loss) == method.best(None) and not np.any(grad)
    # One image alone has nothing to be told from.
    loss, grad = jax.value_and_grad(lambda z: exemplar.semi_hard(z, jnp.zeros(2, int), 0.5)[0])(jnp.eye(2))
    assert float(loss) == 0 and not np.any(grad)


@pytest.mark.fast
@pytest.mark.parametrize("devices", [2, 8])
def test_triplets_are_those_of_the_global_batch(devices):
    tiny.assert_global_triplets(
        devices,
        lambda z, labels: exemplar.semi_hard(z, labels, 0.5, dist.AXIS)[0],
        lambda z, labels: numpy_semi_hard(z, labels, 0.5)[0],
    )


# The method.


@pytest.mark.fast
def test_every_image_is_a_class():
    c = get_config("exemplar", "cifar10")
    method = build.method(c.method, models.from_config(c.model))
    batch = {name: jnp.zeros((1, 32, 32, 3)) for name in method.views()}
    params, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), batch, contract.Info(1000, 2, 5, 5)))
    assert params["hidden"]["out"]["kernel"].shape == (512, 512)  # sec. 3.1: 512 units
    assert params["classifier"]["out"]["kernel"].shape == (512, 1000)


@pytest.mark.fast
def test_triplets_without_a_pair_are_refused():
    c = get_config("exemplar", "imagenet")
    c.method.copies = 1
    with pytest.raises(UserError, match="copies"):
        build.method(c.method, models.from_config(c.model)).check(256, 256, 3)


def test_dropout_belongs_to_the_example():
    """Half of the hidden units, other ones for each image, are dropped in training only."""
    run, _, _ = tiny.compiled("exemplar")
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 8)
    # One image eight times: only dropout can tell its rows apart.
    batch = {**batch, "view1": jnp.repeat(batch["view1"][:1], 8, 0), "index": jnp.zeros(8, int)}

    mesh = dist.make_mesh(jax.devices()[:1])

    def loss(train, position):
        def replica(params, state, batch):
            arguments = {"rng": jax.random.key(1), "step": 0, "info": run.info, "train": train}
            return dist.mean(run.method.loss(params, state, {**batch, "position": position}, **arguments)[0])

        mapped = jax.shard_map(replica, mesh=mesh, in_specs=(P(), P(), P(dist.AXIS)), out_specs=P())
        return float(jax.jit(mapped)(ts.params, ts.state, batch))

    same, other = jnp.zeros(8, int), jnp.arange(8)
    assert loss(True, same) != loss(True, other)
    assert loss(False, same) == loss(False, other)


def test_with_negatives_drawn_near_it_collapses(monkeypatch):
    changes = {"model.width": 16, "method.copies": 2, "method.triplet": 32}
    run = tiny.run("exemplar", batch_size=32, epochs=5, **changes)

    def spread_of(params, state):
        h = tiny.features(run.method, params, state, tiny.batch_of(run, 32)["view1"])
        z = h @ params["embedding"]["out"]["kernel"] + params["embedding"]["out"]["bias"]
        return float(exemplar.losses.spread(z))

    params, state, losses, metrics = tiny.overfit(run, 100)
    assert losses[-1] < (run.method.chance(run.info) + run.method.best(run.info)) / 2
    assert metrics[-1]["exemplar_top1"] > 0.95
    right = spread_of(params, state)

    def wrong_sign(z, labels, margin, axis_name=None):
        z = exemplar.losses.l2_normalize(z)
        distance = 2 - 2 * exemplar.losses.similarity(z, jax.lax.all_gather(z, axis_name, tiled=True))
        return jax.nn.softplus(distance).mean(), jnp.zeros(()) * labels.sum()

    monkeypatch.setattr(exemplar, "semi_hard", wrong_sign)
    broken = spread_of(*tiny.overfit(run, 100)[:2])
    assert broken < 0.5 * 32**-0.5 < right
