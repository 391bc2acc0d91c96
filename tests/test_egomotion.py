"""Egomotion: its bins, its pairs of images, and the baseline of slow features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.augment.view import View
from ssl_jax.methods.video import egomotion
from ssl_jax.methods.video.egomotion import Egomotion

pytestmark = pytest.mark.usefixtures("quick_compilation")
GREY = View(size=16, crop="centre", order=("crop",), mean=(0.0,), std=(1.0,))


def method(**fields):
    return Egomotion(**{"backbone": tiny.Pixels(), "view": GREY, "canvas": 16, "window": 16} | fields)


@pytest.mark.fast
def test_the_bins_are_those_of_the_reference(golden):
    with np.load(golden.parent / "golden_wave2" / "egomotion_bins.npz") as file:
        found = egomotion.turn_class(jnp.asarray(file["angle"], jnp.float32), 30.0, 3.0)
        np.testing.assert_array_equal(found, file["rotation_class"])
        shift = jnp.stack([jnp.asarray(file["dx"], jnp.float32)] * 2, 1)
        np.testing.assert_array_equal(method()._answers(shift, jnp.zeros(len(shift)))[0], file["x_class"])


def test_the_second_image_is_the_first_after_the_motion():
    """Without a motion of the first image: a shift to the right and down moves the pixels so far."""
    image = np.zeros((1, 16, 16, 1), np.float32)
    image[0, 7, 5] = 1.0
    moved = egomotion.geometry.projective(image[0], egomotion.motion_map(jnp.zeros(()), jnp.array([2.0, 3.0]), 16), 0.0)
    assert moved[10, 7, 0] == pytest.approx(1.0)
    # A quarter turn about the centre: what was right of it lies below it.
    turned = egomotion.geometry.projective(image[0], egomotion.motion_map(jnp.float32(90.0), jnp.zeros(2), 16), 0.0)
    y, x = np.unravel_index(np.argmax(turned[..., 0]), (16, 16))
    assert (y - 7.5, x - 7.5) == (5 - 7.5, -(7 - 7.5))


def test_both_images_are_moved_and_the_answers_say_by_how_much():
    keys = jax.random.split(jax.random.key(0), 512)
    m = method(canvas=20, window=20)
    images = jnp.broadcast_to(jnp.eye(16)[None, :, :, None], (512, 16, 16, 1))
    one, two, shift, turn = m._pairs(images, keys)
    assert one.shape == two.shape == (512, 20, 20, 1)
    assert len(np.unique(np.asarray(one), axis=0)) > 500  # nor do all first images look alike
    assert set(np.unique(shift)) == set(range(-3, 4)) and 29 < float(jnp.abs(turn).max()) <= 30
    assert method(window=8)._pairs(images[:2], keys[:2])[0].shape == (2, 8, 8, 1)


def test_the_ground_outside_is_that_of_the_view():
    m = method(view=View(size=16, crop="centre", order=("crop",), mean=(0.5,), std=(0.25,)), fill=0.0)
    black = jnp.full((4, 16, 16, 1), -2.0)
    one, two, _, _ = m._pairs(black, jax.random.split(jax.random.key(0), 4))
    np.testing.assert_allclose(one, -2.0, atol=1e-5)
    np.testing.assert_allclose(two, -2.0, atol=1e-5)


@pytest.mark.fast
def test_slow_features_compare_distances_with_the_margin():
    distance, near = jnp.array([0.5, 3.0, 3.0, 20.0]), jnp.array([True, True, False, False])
    wanted = np.mean([0.25, 9.0, 49.0, 0.0]) / 2
    assert float(egomotion.contrastive(distance, near, 10.0)) == pytest.approx(wanted)


def test_the_chance_of_slow_features_is_the_loss_of_equal_ones():
    m = method(objective="slow")
    keys = jax.random.split(jax.random.key(1), 20_000)
    _, _, shift, turn = m._pairs(jnp.zeros((len(keys), 1, 1, 1)), keys)
    loss = egomotion.contrastive(jnp.zeros(len(keys)), m._hardly_moved(shift, turn), 10.0)
    assert m.chance(None) == pytest.approx(float(loss), rel=0.01)


def test_slow_features_train():
    run = tiny.run("egomotion", **{"method.objective": "slow"})
    batch, ts = tiny.batch_of(run, 16), run.init()
    (loss, _), grads = jax.value_and_grad(tiny.loss_function(run), has_aux=True)(ts.params, ts.state, batch)
    assert set(ts.params) == {"backbone"} and float(loss) > 0
    assert any(np.any(np.asarray(g)) for g in jax.tree.leaves(grads))
