"""Context encoder: holes, weights, both losses and who gets the gradient of which."""

import dataclasses
import math

import grids
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.augment import holes
from ssl_jax.methods import build
from ssl_jax.methods.pretext import context_encoder
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_centre():
    """The authors' 128 pixels: a hole of 56x56 in the middle of a prediction of 64x64."""
    hole = holes.centre_hole(128, 4)
    assert hole.shape == (128, 128, 1) and hole.sum() == 56**2
    rows = np.flatnonzero(hole.any((1, 2)))
    assert (rows[0], rows[-1]) == (36, 91)
    weights = holes.centre_weights(128, 4, 10.0)
    assert weights.shape == (64, 64, 1) and weights.sum() == 64**2 + 9 * (64**2 - 56**2)
    assert weights[3, 30] == weights[30, 60] == 10 and weights[4, 4] == weights[59, 59] == 1
    assert (holes.centre_weights(32, 0, 10.0) == 1).all()


def test_random_regions():
    keys = jax.random.split(jax.random.key(0), 6)
    found = np.asarray(holes.random_regions(keys, 32, 0.25))
    assert found.shape == (6, 32, 32, 1) and (found.sum((1, 2, 3)) == 256).all()
    assert len({hole.tobytes() for hole in found}) == 6
    np.testing.assert_array_equal(holes.random_regions(keys[::-1], 32, 0.25), found[::-1])
    # Blobs: most neighbours of what is hidden are hidden, where of single pixels it would be a quarter.
    assert (found[:, 1:] & found[:, :-1]).sum() / found[:, 1:].sum() > 0.7


@pytest.mark.fast
def test_losses():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(2, 9))
    p = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-made))
    wanted = -np.log(p[0]).mean() - np.log(1 - p[1]).mean()
    np.testing.assert_allclose(context_encoder.discriminator_loss(real, made), wanted, rtol=1e-6)
    np.testing.assert_allclose(context_encoder.generator_loss(made), -np.log(p[1]).mean(), rtol=1e-6)
    nothing = jnp.zeros(4)
    np.testing.assert_allclose(context_encoder.discriminator_loss(nothing, nothing), 2 * math.log(2), rtol=1e-6)
    assert np.isfinite(context_encoder.discriminator_loss(jnp.array([-1e4]), jnp.array([1e4])))
    y, t, w = rng.normal(size=(2, 4, 4, 3)), rng.normal(size=(2, 4, 4, 3)), rng.random((4, 4, 1))
    gradient = jax.grad(context_encoder.weighted_error)(jnp.asarray(y, jnp.float32), t, w)
    np.testing.assert_allclose(gradient, 2 * w * (y - t) / y.size, rtol=1e-4, atol=1e-7)


def run_and_state():
    run, _, _ = tiny.compiled("context_encoder")
    return run, tiny.fresh(run)


def test_generator_and_discriminator_get_their_own_gradients():
    """One scalar: the discriminator's part does not know of lambda, the generator's is linear in it."""
    run, ts = run_and_state()
    batch = tiny.batch_of(run, 4)

    @jax.jit
    def gradients(weight):
        loss = tiny.loss_function(run, dataclasses.replace(run.method, adversarial=weight))
        grads = jax.grad(lambda params: loss(params, ts.state, batch)[0])(ts.params)
        return grads.pop("discriminator"), grads

    (judge, none), (same, half), (_, full) = map(gradients, (0.0, 0.5, 1.0))
    tiny.assert_close(same, judge, 1e-4)
    tiny.assert_close(half, jax.tree.map(lambda a, b: (a + b) / 2, none, full), 1e-3)
    # With lambda at one the generator learns through the discriminator alone.
    assert any(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(full["decoder"]))

    def error(params):
        method = run.method
        y = method._inpaint(params, ts.state["stats"], batch, jax.random.key(1), True)[3]
        target = batch["view"][:, 8:24, 8:24]  # [-1, 1], as the view normalises
        weights = holes.centre_weights(32, 1, 10.0)
        return context_encoder.weighted_error(y, target, weights)

    alone = jax.jit(jax.vmap(lambda _, params: jax.grad(error)(params), (0, None), axis_name="data", axis_size=1))
    wanted = alone(jnp.zeros(1), {name: x for name, x in ts.params.items() if name != "discriminator"})
    tiny.assert_close(none, jax.tree.map(lambda x: x[0], wanted), 1e-3)


@pytest.mark.parametrize("region", ["centre", "random"])
def test_what_is_hidden_is_not_seen(region):
    run, ts = run_and_state()
    method, batch = dataclasses.replace(run.method, region=region), tiny.batch_of(run, 4)
    params, state = ts.params, ts.state
    if region == "random":  # another decoder and discriminator: of the whole image
        params, state = jax.jit(lambda: method.init(jax.random.key(0), batch, run.info))()
    inpaint = jax.jit(lambda b: method._inpaint(params, state["stats"], b, jax.random.key(1), False))
    hidden, x, _, y, _ = inpaint(batch)
    share = (14 / 32) ** 2 if region == "centre" else 0.25
    np.testing.assert_allclose(hidden.mean(), share, rtol=1e-6)
    fill = 2 * np.array([117, 104, 123]) / 255 - 1  # in the authors' order
    np.testing.assert_allclose(
        np.asarray(x)[np.asarray(hidden)[..., 0]], np.tile(fill, (int(hidden.sum()), 1)), atol=1e-5
    )
    assert np.abs(y).max() <= 1
    other = inpaint(batch | {"view": batch["view"] + 2 * hidden})[3]
    np.testing.assert_array_equal(other, y)
    assert np.abs(inpaint(batch | {"view": batch["view"] + 0.5 * ~hidden})[3] - y).max() > 1e-3


def test_random_regions_count_where_they_are():
    """A prediction that is right in the hole alone has no error, and the discriminator sees the rest as it was."""
    run, _ = run_and_state()
    method, batch = dataclasses.replace(run.method, region="random", adversarial=0.0), tiny.batch_of(run, 4)
    params, state = jax.jit(lambda: method.init(jax.random.key(0), batch, run.info))()
    loss = jax.jit(tiny.loss_function(run, method))
    value, (_, metrics) = loss(params, state, batch)
    np.testing.assert_allclose(value - metrics["discriminator_loss"], metrics["hole_mse"], rtol=1e-4)
    assert metrics["hole_mse/chance"] > 0
    # Right in the hole and far off elsewhere: no error, and what is judged is the image itself.
    seen = [
        jax.jit(tiny.loss_function(run, Right(**vars(method), off=off)))(params, state, batch) for off in (0.0, 9.0)
    ]
    for _, (_, found) in seen:
        assert found["hole_mse"] == 0
    assert seen[0][1][1]["discriminator_loss"] == seen[1][1][1]["discriminator_loss"]


@dataclasses.dataclass(frozen=True)
class Right(context_encoder.ContextEncoder):
    """Inpaints the truth, and outside the hole something that is off by so much."""

    off: float = 0.0

    def _inpaint(self, params, stats, batch, rng, train):
        hidden, x, h, y, stats = super()._inpaint(params, stats, batch, rng, train)
        return hidden, x, h, 0 * y + jnp.where(hidden, batch["view"], batch["view"] + self.off), stats


def test_pictures():
    run, _ = run_and_state()
    (picture,) = grids.assert_well_formed(run)
    given, made, truth = picture.images.swapaxes(0, 1)
    outside = ~holes.centre_hole(32, 1)[..., 0]
    for image in (given, made):
        np.testing.assert_allclose(image[:, outside], truth[:, outside], atol=1e-5)
        assert np.abs(image - truth).max() > 0.05


def test_groups():
    run, _, _ = tiny.compiled("context_encoder")
    shapes = jax.eval_shape(run.init)
    labels = run.method.groups(shapes.params)
    assert {name: set(jax.tree.leaves(part)) for name, part in labels.items()} == {
        "backbone": {"default"},
        "bottleneck": {"default"},
        "decoder": {"default"},
        "discriminator": {"discriminator"},
    }


@pytest.mark.fast
def test_what_is_refused():
    c = get_config("context_encoder", "imagenet")
    method = build.method(c.method, models.from_config(c.model))
    method.check(350, 350, 3)
    for change, word in (
        ({"region": "left"}, "region"),
        ({"overlap": 32}, "overlap"),
        ({"fill": (0.1, 0.2)}, "fill"),
        ({"judge": (8,) * 7}, "judge"),
    ):
        with pytest.raises(UserError, match=word):
            dataclasses.replace(method, **change).check(350, 350, 3)
