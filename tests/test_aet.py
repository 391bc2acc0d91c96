"""AET: parameters and maps, what is drawn, and what lies outside the image."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import models
from ssl_jax.augment import geometry
from ssl_jax.methods import build, contract
from ssl_jax.methods.pretext import aet
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
projective = jax.jit(geometry.projective)


@functools.cache
def method(preset="photo_tiles"):
    c = get_config("aet", preset)
    return build.method(c.method, models.from_config(c.model))


def draws(m, count=4000):
    return np.asarray(jax.jit(jax.vmap(m.draw))(jax.random.split(jax.random.key(1), count)))


def photograph(size=9, channels=2):
    return np.random.default_rng(0).uniform(size=(size, size, channels)).astype(np.float32)


@pytest.mark.fast
def test_sampling_is_pillows_inside():
    """Bilinear at the places of Pillow's eight coefficients; outside Pillow has black, here the fill."""
    x = photograph(12, 1)
    matrix = np.array([[0.9, 0.2, 0.4], [-0.1, 0.8, 1.3], [0.004, -0.003, 1.0]])
    wanted = Image.fromarray(x[..., 0]).transform(
        (12, 12), Image.Transform.PERSPECTIVE, list(matrix.ravel()[:8]), Image.Resampling.BILINEAR
    )
    found = np.asarray(projective(x, jnp.asarray(matrix, jnp.float32), 0.0))[..., 0]
    np.testing.assert_allclose(found[2:-2, 2:-2], np.asarray(wanted)[2:-2, 2:-2], atol=1e-4)


@pytest.mark.fast
def test_the_identity_is_known_and_changes_nothing():
    x = photograph()
    none = jnp.array([1.0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(projective(x, aet.affine_map(none, 9, 0.2, 0.3, 30.0), 0.5), x, atol=1e-5)
    corners = 9 * jnp.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    coefficients = geometry.quadrilateral_map(corners, 9)
    np.testing.assert_allclose(coefficients, [1, 0, 0, 0, 1, 0, 0, 0], atol=1e-7)
    target = (coefficients - jnp.array(method().mean)) / jnp.array(method().std)
    np.testing.assert_allclose(method().map_of(target), np.eye(3), atol=1e-6)


@pytest.mark.fast
def test_quarter_turns_move_whole_pixels():
    """Interpolation would tell them from others."""
    x = photograph()
    square = 9 * jnp.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    for turns in range(4):
        coefficients = geometry.quadrilateral_map(jnp.roll(square, -turns, axis=0), 9)
        matrix = jnp.concatenate([coefficients, jnp.ones(1)]).reshape(3, 3)
        np.testing.assert_allclose(projective(x, matrix, 0.5), np.rot90(x, -turns), atol=2e-5)
    half = jnp.array([-1.0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(projective(x, aet.affine_map(half, 9, 0.2, 0.3, 30.0), 0.5), np.rot90(x, 2), atol=2e-5)


@pytest.mark.fast
def test_corners_go_where_they_were_drawn():
    """Against a linear solver in float64, at ImageNet's size."""
    size = 224
    square = size * np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    corners = np.asarray(jax.vmap(aet.draw_corners, (0, None, None, None))(
        jax.random.split(jax.random.key(0), 20), size, 28.0, (0.8, 1.2)
    ), np.float64)  # fmt: skip
    for quad in corners:
        rows, wanted = [], []
        for (u, v), (x, y) in zip(square, quad, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            wanted += [u, v]
        solution = np.linalg.solve(np.array(rows), wanted)
        found = np.asarray(geometry.quadrilateral_map(jnp.asarray(quad, jnp.float32), size))
        errors = np.abs(found - solution) / np.array([1, 1, size, 1, 1, size, 1 / size, 1 / size])  # of each one's size
        assert errors.max() < 1e-4, errors


@pytest.mark.fast
def test_affine_maps_are_those_of_their_parameters():
    """Forwards: shear and turn, magnify about the centre, shift; parameters are normalised to [-1, 1]."""
    m = dataclasses.replace(method(), kind="affine")
    p = draws(m, 500)
    assert np.abs(p).max() <= 1 and p.shape == (500, 6)
    np.testing.assert_allclose(p[:, 0] ** 2 + p[:, 1] ** 2, 1, atol=1e-5)
    np.testing.assert_allclose((p[:, 2:] ** 2).mean(0), 1 / 3, atol=0.06)
    assert abs(p[:, :2].mean()) < 0.06
    for row in p[:5]:
        angle, lean = np.arctan2(row[1], row[0]), np.deg2rad(30 * row[5])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1, -np.sin(lean)], [0, np.cos(lean)]])
        forward = (1 + 0.3 * row[4]) * turn @ shear
        back = np.asarray(m.map_of(jnp.asarray(row)))
        point = np.array([3.0, -5.0])  # from the centre of 32 pixels
        moved = forward @ point + 32 * 0.2 * row[2:4] + 16
        np.testing.assert_allclose(back @ [*moved, 1], [*(point + 16), 1], atol=1e-4)


@pytest.mark.fast
def test_chance_is_the_mean_square():
    affine = dataclasses.replace(method(), kind="affine")
    info = contract.Info(10, 2, 5, 5)
    assert affine.chance(info) == pytest.approx((0.5 + 0.5 + 4 / 3) / 6, rel=0.02)
    for preset in ("photo_tiles", "imagenet"):
        m = method(preset)
        p = draws(m)
        assert m.chance(info) == pytest.approx((p**2).mean(), rel=0.1)
        np.testing.assert_allclose(p[:, :6].std(0), 1, atol=0.4)  # the authors' constants normalise
        assert np.abs(p.mean(0)).max() < 0.2
    np.testing.assert_allclose(p.std(0), 1, atol=0.1)  # on ImageNet all of them


@pytest.mark.fast
def test_outside_is_mid_grey():
    """Whatever the normalisation; black would be a frame that tells the angle of a bright image."""
    m = dataclasses.replace(method(), kind="affine")
    white = (jnp.ones((1, 32, 32, 3)) - jnp.array(m.view.mean)) / jnp.array(m.view.std)
    away = jax.vmap(m.map_of)(jnp.array([[1.0, 0, 1, 1, -1, 0]]))
    moved = np.asarray(jax.jit(m._transformed)(white, away))[0] * m.view.std + m.view.mean
    np.testing.assert_allclose(moved[0, 0], 128 / 255, atol=1e-5)
    np.testing.assert_allclose(moved[24, 24], 1, atol=1e-5)
    assert moved.min() > 0.5


class Unmoved(aet.AET):
    """The transformed image is the image."""

    def _transformed(self, images, maps):
        return images


def test_without_the_transformed_image_nothing_is_known():
    """On new images: that 32 have their transformations can be learnt by heart."""
    run = tiny.run("aet", batch_size=32, epochs=5)
    tests = tiny.batch_of(run, 64, seed=7)
    errors = {}
    for m in (run.method, Unmoved(**vars(run.method))):
        params, state, _, _ = tiny.overfit(run, 60, m)
        _, (_, metrics) = jax.jit(tiny.loss_function(run, m))(params, state, tests)
        errors[type(m)] = float(metrics["transformation_error"] / metrics["transformation_error/chance"])
    assert errors[aet.AET] < 0.9 * errors[Unmoved]


def test_pictures_undo_what_is_predicted():
    run = tiny.compiled("aet")[0]
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 16)
    rng = jax.random.key(0)
    (picture,) = run.method.pictures(ts.params, ts.state, batch, rng=rng)
    tiny.assert_picture(picture)

    class Knows(aet.AET):
        def _predict(self, params, stats, x, moved, *, train):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch["position"][: len(x)])
            return jax.vmap(self.draw)(keys), None, stats

    (right,) = Knows(**vars(run.method)).pictures(ts.params, ts.state, batch, rng=rng)
    assert {row[2] for row in right.captions} == {"squared error 0.00"}
    centre = (slice(None), slice(None), slice(3, 5), slice(3, 5))
    gap = np.abs(right.images[centre][:, 2] - right.images[centre][:, 0]).mean()
    assert gap < 0.6 * np.abs(right.images[centre][:, 1] - right.images[centre][:, 0]).mean()


@pytest.mark.fast
def test_what_has_no_meaning_is_refused():
    for changes, words in (
        ({"kind": "perspective"}, "'affine' or"),
        ({"std": (1.0,)}, "give 8"),
        ({"shift": 8.0}, "quarter"),
    ):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(method(), **changes).check(32, 32, 3)
