"""CPC: what the context may see, what the loss compares, and that nothing leaks between patches."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, models
from ssl_jax.methods import build
from ssl_jax.methods.joint import cpc
from ssl_jax.models.pixelcnn import PixelCNN
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError


@functools.cache
def context():
    """A context network of two blocks on a grid of 4 x 3, and the Jacobian of its outputs."""
    net = PixelCNN(2, 8)
    x = jax.random.normal(jax.random.key(0), (1, 4, 3, 5))
    params = net.init(jax.random.key(1), x)
    # Without the last ReLU a dead output could hide what it sees.
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x)[0].sum((1, 2))))(x)[:, 0]
    return params, np.abs(np.asarray(jacobian)).max((2, 3))  # [row of the context, row of z]


@pytest.mark.fast
def test_no_row_sees_a_row_below():
    _, seen = context()
    for row in range(4):
        assert (seen[row, row + 1 :] == 0).all()
        assert (seen[row, max(0, row - 2) : row + 1] > 0).all()  # itself, and a row further up a block
        assert (seen[row, : max(0, row - 2)] == 0).all()


@pytest.mark.fast
def test_a_block_is_that_of_the_appendix():
    """1x1 to the hidden width, 1x3, 2x1, and 1x1 back."""
    params, _ = context()
    sizes = {name: x["kernel"].shape for name, x in params["params"].items() if name.startswith("block1")}
    assert sizes == {
        "block1_in": (1, 1, 5, 8),
        "block1_row": (1, 3, 8, 8),
        "block1_above": (2, 1, 8, 8),
        "block1_out": (1, 1, 8, 5),
    }


def numpy_info_nce(p, z, ahead):
    n, rows, columns, width = z.shape
    terms, right = [], []
    for i, r, c in np.ndindex(n, rows - ahead, columns):
        scores = z.reshape(-1, width) @ p[i, r, c]
        own = np.ravel_multi_index((i, r + ahead, c), (n, rows, columns))
        terms.append(np.log(np.exp(scores).sum()) - scores[own])
        right.append(scores.argmax() == own)
    return np.mean(terms), np.mean(right)


def grids(n=4, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, 4, 3, 5))


compiled_loss = jax.jit(cpc.info_nce, static_argnums=2)


@pytest.mark.fast
@pytest.mark.parametrize("case", ["plain", "duplicates", "zeros"])
def test_info_nce_agrees_with_numpy(case):
    p, z = grids()
    p[0, :3] = z[0, 1:] * 3  # some are right
    if case == "duplicates":
        z[1], p[2] = z[0], p[1]
    if case == "zeros":
        z[:], p[1:] = 0, 0
    with jax.enable_x64(True):
        for ahead in (1, 3):
            loss, accuracy = compiled_loss(jnp.asarray(p), jnp.asarray(z), ahead)
            wanted, right = numpy_info_nce(p, z, ahead)
            assert float(loss) == pytest.approx(wanted, rel=1e-12)
            if case == "plain":
                assert float(accuracy) == pytest.approx(right, rel=1e-6)
            direction = np.random.default_rng(1).normal(size=p.shape)
            slope = [numpy_info_nce(p + h * direction, z, ahead)[0] for h in (1e-6, -1e-6)]
            slope += [numpy_info_nce(p, z + h * direction, ahead)[0] for h in (1e-6, -1e-6)]
            grads = jax.grad(lambda p, z, k=ahead: cpc.info_nce(p, z, k)[0], (0, 1))(jnp.asarray(p), jnp.asarray(z))
            for grad, (there, here) in zip(grads, (slope[:2], slope[2:]), strict=True):
                assert np.sum(np.asarray(grad) * direction) == pytest.approx((there - here) / 2e-6, rel=1e-5, abs=1e-8)
    if case == "zeros":
        assert wanted == pytest.approx(math.log(4 * 4 * 3))


@pytest.mark.fast
@pytest.mark.parametrize("devices", [2, 4])
def test_candidates_are_those_of_the_global_batch(devices):
    """On four devices each has one image; loss and gradient are those of one device."""

    def over(devices):
        def replica(w, p, z):
            def loss(w):
                return dist.mean(cpc.info_nce(p @ w, z @ w, 2, dist.AXIS)[0])

            value, grad = jax.value_and_grad(loss)(w)
            return value, dist.mean(grad)

        mesh = dist.make_mesh(jax.devices()[:devices])
        return dist.map_replicas(replica, mesh, (P(), P(dist.AXIS), P(dist.AXIS)), P())(w, p, z)

    with jax.enable_x64(True):
        p, z = (jnp.asarray(x) for x in grids())
        w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))
        for found, wanted in zip(over(devices), over(1), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        assert float(over(1)[0]) == pytest.approx(numpy_info_nce(p @ w, np.asarray(z @ w), 2)[0], rel=1e-12)


@pytest.mark.fast
def test_directions_turn_the_grid():
    z = jnp.arange(6).reshape(1, 2, 3, 1)
    below = {0: (0, 3), 1: (3, 0), 2: (0, 1), 3: (2, 1)}  # what lies below what
    for direction, (upper, lower) in below.items():
        column = np.asarray(cpc.turned(z, direction))[0, :2, 0, 0]
        assert tuple(column) == (upper, lower)


def built(preset, **changes):
    c = get_config("cpc", preset)
    c.update_from_flattened_dict(changes)
    return build.method(c.method, models.from_config(c.model))


@pytest.mark.fast
def test_what_would_make_the_task_void_is_refused():
    with pytest.raises(UserError, match=r"model\.norm"):
        built("cifar10", **{"model.norm": "batch"}).check(32, 32, 3)
    with pytest.raises(UserError, match="row"):
        built("cifar10", **{"method.skip": 6}).check(32, 32, 3)
    with pytest.raises(UserError, match=r"patch\.size"):
        built("cifar10", **{"method.patch.size": 9}).check(32, 32, 3)
    with pytest.raises(UserError, match="colour_drop"):
        built("digits", **{"method.colour_drop": 1.0}).check(8, 8, 1)


@pytest.mark.fast
def test_skipped_rows_share_no_pixel_with_the_context():
    for preset in ("digits", "fashion_mnist", "cifar10", "imagenet", "imagenet_v1"):
        method = built(preset)
        assert method._ahead()[0] * method.stride >= method.patch_size
    assert list(cpc.CPC(None)._ahead()) == [2, 3, 4, 5]


@pytest.mark.fast
def test_patches_of_both_versions():
    x = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (2, 32, 32, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    plain = cpc.View(size=7, crop="shift", pad=0, order=("crop",), mean=(0.0,), std=(1.0,))
    v2 = dataclasses.replace(built("cifar10"), patch=plain, colour_drop=1.0)
    patches = np.asarray(jax.jit(v2._patches)(x, keys))
    assert patches.shape == (2, 49, 8, 8, 3)
    # What the 7 pixels lack of 8 is padded, and one channel is left.
    assert (patches[:, :, 7] == 0).all() and (patches[:, :, :, 7] == 0).all()
    kept = (patches[:, :, :7, :7] > 0).all((2, 3))
    assert (kept.sum(-1) == 1).all() and len({tuple(k) for k in kept.reshape(-1, 3)}) == 3
    v1 = dataclasses.replace(v2, colour_drop=0.0, gray=True)
    patches = np.asarray(jax.jit(v1._patches)(x, keys))
    assert (patches[..., 0] == patches[..., 1]).all() and (patches[..., 0] == patches[..., 2]).all()


def test_it_begins_at_the_logarithm_of_the_candidates():
    run, _, _ = tiny.compiled("cpc")
    _, (metrics,) = tiny.steps("cpc", 1)
    chance = math.log(tiny.BATCH * 9)
    assert run.method.chance(run.info) == pytest.approx(chance)
    assert metrics["loss"] == pytest.approx(chance, abs=0.1)


def test_patches_are_encoded_alone():
    """The vector of a patch does not change with the rest of the image: no statistics are shared."""
    run, _, _ = tiny.compiled("cpc")
    params = tiny.fresh(run).params["backbone"]
    x = np.random.default_rng(0).normal(size=(9, 4, 4, 1)).astype(np.float32)
    encode = jax.jit(lambda x: run.method.backbone.apply({"params": params}, x, train=True))
    other = x.copy()
    other[1:] += 3
    np.testing.assert_array_equal(encode(x)[0], encode(other)[0])


def test_features_are_the_mean_over_patches():
    run, _, _ = tiny.compiled("cpc")
    ts = tiny.fresh(run)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    seen = (x - jnp.array(run.method.patch.mean)) / jnp.array(run.method.patch.std)  # a patch's normalisation
    patches = [seen[:, i : i + 4, j : j + 4] for i in (0, 2, 4) for j in (0, 2, 4)]
    z = [run.method.backbone.apply({"params": ts.params["backbone"]}, p, train=False) for p in patches]
    np.testing.assert_allclose(tiny.features(run.method, ts.params, ts.state, x), np.mean(z, 0), rtol=1e-5, atol=1e-6)


def test_without_negatives_it_collapses(monkeypatch):
    run = tiny.run("cpc", batch_size=32, epochs=5, **{"model.width": 16})
    right = tiny.overfit(run, 80)[3]

    def attraction(p, z, ahead, axis_name=None):
        gap = jnp.square(p[:, : z.shape[1] - ahead] - z[:, ahead:])
        return gap.mean(), jnp.zeros(()) * gap.sum()

    monkeypatch.setattr(cpc, "info_nce", attraction)
    broken = tiny.overfit(run, 80)[3]
    assert right[-1]["prediction_accuracy"] > 0.5
    assert broken[-1]["feature_spread"] < 0.5 * right[-1]["feature_spread"]
