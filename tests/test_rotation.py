"""RotNet: rotations are moves of whole pixels in the authors' direction, and its pictures say what it answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.methods.pretext import rotation


@pytest.mark.fast
def test_rotations_are_the_authors():
    """90 degrees is the vertical flip of the transpose, 180 both flips, 270 the transpose of the vertical flip."""
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
    found = np.asarray(rotation.rotations(jnp.asarray(x)))
    transposed = x.swapaxes(1, 2)
    wanted = [x, transposed[:, ::-1], x[:, ::-1, ::-1], x[:, ::-1].swapaxes(1, 2)]
    np.testing.assert_array_equal(found, np.stack(wanted, 1))
    four = x
    for _ in range(4):
        four = np.asarray(rotation.rotations(jnp.asarray(four)))[:, 1]
    np.testing.assert_array_equal(four, x)
    with pytest.raises(ValueError, match="square"):
        rotation.rotations(jnp.zeros((1, 4, 5, 1)))


@pytest.mark.fast
def test_nothing_but_the_order_of_the_pixels_changes():
    """No border, no interpolation: a rotation that could be told by them would teach nothing."""
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    for turned in np.asarray(rotation.rotations(jnp.asarray(x)))[0]:
        np.testing.assert_array_equal(np.sort(turned.ravel()), np.sort(x.ravel()))


def test_pictures_turn_back_by_the_answer():
    run, _, _ = tiny.compiled("rotation")
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 16)
    # A classifier that always says 90 degrees.
    bias = jnp.array([0.0, 9.0, 0.0, 0.0])
    params = {**ts.params, "classifier": {"linear": {**ts.params["classifier"]["linear"], "bias": bias}}}
    (picture,) = run.method.pictures(params, ts.state, batch, rng=jax.random.key(0))
    tiny.assert_picture(picture)
    upright = np.clip(np.asarray(batch["view"][1]) * run.method.view.std + run.method.view.mean, 0, 1)
    np.testing.assert_allclose(picture.images[1, 1], upright, atol=1e-6)  # turned by 90 and back
    np.testing.assert_array_equal(picture.images[0, 1], np.rot90(picture.images[0, 0], -1))
    assert picture.captions[2] == ("180°", "turned back by 90°")
