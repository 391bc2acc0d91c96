"""Colorization: its loss, what weighs in the gradient, and what the network sees."""

import dataclasses
import functools
import math

import grids
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ssl_jax import models
from ssl_jax.augment import lab
from ssl_jax.methods import build, contract
from ssl_jax.methods.pretext import colorization
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.fast
def test_rebalancing():
    prior = jnp.array([0.7, 0.2, 0.1, 0.0])
    w = colorization.rebalancing(prior)
    np.testing.assert_allclose(w, (0.754170, 1.461204, 1.798405, 0), atol=1e-6)  # methods.md, section 10
    np.testing.assert_allclose(prior @ w, 1, rtol=1e-6)
    np.testing.assert_allclose(colorization.rebalancing(prior, mix=1.0), (1, 1, 1, 0), rtol=1e-6)
    np.testing.assert_allclose(colorization.rebalancing(jnp.zeros(4)), 1, rtol=1e-6)  # nothing counted yet


def test_loss_is_plain_and_its_gradient_is_weighted():
    """Against NumPy, with dense targets."""
    rng = np.random.default_rng(0)
    ab = rng.uniform(-80, 80, (2, 2, 3, 2)).astype(np.float32)
    logits = rng.normal(size=(2, 2, 3, 313)).astype(np.float32)
    weights = rng.uniform(0, 3, (2, 2, 3)).astype(np.float32)
    squared = np.square(ab[..., None, :].astype(float) - lab.ab_centres()).sum(-1)
    target = np.exp(-squared / 50) * (squared <= np.sort(squared, -1)[..., 9:10])
    target /= target.sum(-1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    def loss(logits):
        return colorization.reweighted(
            optax.softmax_cross_entropy(logits, colorization.distribution(*lab.soft_encode(ab))), weights
        )

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, -(target * np.log(p)).sum(-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient, weights[..., None] * (p - target) / weights.size, atol=1e-6)
    np.testing.assert_allclose(loss(jnp.zeros_like(logits)), math.log(313), rtol=1e-6)  # 5.746


@pytest.mark.fast
def test_best_is_the_entropy_of_a_centre():
    _, weights = lab.soft_encode(jnp.zeros((1, 2)))
    method = colorization.Colorization(backbone=None)
    np.testing.assert_allclose(method.best(None), -(weights * jnp.log(weights)).sum(), rtol=1e-5)


@pytest.mark.fast
def test_annealed_mean_goes_from_mean_to_mode():
    logits = jnp.zeros(313).at[jnp.array([3, 5])].set(jnp.log(jnp.array([600.0, 900.0])))
    cold, warm = (colorization.annealed_mean(logits, t) for t in (0.01, 1.0))
    np.testing.assert_allclose(cold, lab.ab_centres()[5], atol=1e-3)
    weights = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(warm, weights @ lab.ab_centres(), rtol=1e-4)


def run_and_state():
    run, _, _ = tiny.compiled("colorization")
    return run, tiny.fresh(run)


def test_features_see_lightness_alone():
    """The guard against a colour that is seen: images of one lightness have the same features."""
    run, ts = run_and_state()
    images = tiny.batch_of(run, 4)["view"]
    gray = lab.lab_to_rgb(lab.rgb_to_lab(images).at[..., 1:].set(0.0))
    features = jax.jit(lambda x: tiny.features(run.method, ts.params, ts.state, x))
    assert np.abs(gray - images).max() > 0.1
    np.testing.assert_allclose(features(gray), features(images), atol=1e-4)
    assert np.abs(features(1 - images) - features(images)).max() > 1e-2


def test_images_without_colour_move_nothing():
    run, ts = run_and_state()
    batch = tiny.batch_of(run, 4)
    gray = batch | {"view": jnp.broadcast_to(batch["view"].mean(-1, keepdims=True), batch["view"].shape)}
    loss = tiny.loss_function(run)
    gradient = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, ts.state, batch)[0]))
    value, still = gradient(ts.params, gray)
    assert value > 1  # it is reported all the same
    assert all(not np.any(x) for x in jax.tree.leaves(still))
    assert any(np.any(x) for x in jax.tree.leaves(gradient(ts.params, batch)[1]))
    # As in the authors' code the pixels between the targets do not make an image one of colour.
    between = gray | {"view": gray["view"].at[:, 1::4, 1::4].set(jnp.array([0.9, 0.1, 0.1]))}
    assert all(not np.any(x) for x in jax.tree.leaves(gradient(ts.params, between)[1]))


def test_prior_is_the_mean_of_all_targets():
    run, ts = run_and_state()
    loss, state, seen = jax.jit(tiny.loss_function(run)), ts.state, []
    for seed in (0, 1, 2):
        batch = tiny.batch_of(run, 4, seed=seed)
        bins, weights = lab.soft_encode(lab.rgb_to_lab(batch["view"])[:, ::4, ::4, 1:])
        seen.append(np.bincount(bins.ravel(), weights.ravel(), 313) / bins[..., 0].size)
        _, (state, metrics) = loss(ts.params, state, batch)
    np.testing.assert_allclose(state["prior"], np.mean(seen, 0), atol=1e-6)
    np.testing.assert_allclose(state["prior"].sum(), 1, rtol=1e-5)
    # By chance the answer is what was most frequent so far, also on images where something else is.
    share = np.mean(bins[..., 0] == np.mean(seen, 0).argmax())
    np.testing.assert_allclose(metrics["ab_bin_accuracy/chance"], share, rtol=1e-5)


def test_an_untrained_network_is_measured_in_weights_that_are_no_others():
    """It has counted nothing: those of the batch; and a trained one's where it has counted."""
    run, ts = run_and_state()
    batch = tiny.batch_of(run, 16)
    bins, weights = lab.soft_encode(lab.rgb_to_lab(batch["view"])[:, ::4, ::4, 1:])
    own = np.float32(np.bincount(bins.ravel(), weights.ravel(), 313) / bins[..., 0].size)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0), axis_name="data")
    def measured(state, batch):
        rest = {"rng": jax.random.key(0), "step": jnp.zeros((), jnp.int32), "info": run.info, "train": False}
        return Answers(**vars(run.method), everywhere=int(own.argmax())).loss(ts.params, state, batch, **rest)[1][1]

    (fresh, counted, flat) = (
        jax.tree.map(lambda x: x[0], measured({**ts.state, **prior}, jax.tree.map(lambda x: x[None], batch))).metrics
        for prior in (
            {},
            {"prior": own, "batches": jnp.ones(())},
            {"prior": jnp.ones(313) / 313, "batches": jnp.ones(())},
        )
    )
    name = "ab_bin_accuracy_rebalanced"
    np.testing.assert_allclose(fresh[name].value, counted[name].value, rtol=1e-5)
    assert abs(fresh[name].value - flat[name].value) > 0.01


@dataclasses.dataclass(frozen=True)
class Answers(colorization.Colorization):
    """Answers the nearest bin of each pixel, or one bin everywhere."""

    everywhere: int = -1

    def _predict(self, params, stats, images, train):
        colours, h, logits, stats = super()._predict(params, stats, images, train)
        nearest = lab.soft_encode(colours[:, :: self.stride, :: self.stride, 1:])[0][..., 0]
        return colours, h, 0 * logits + jax.nn.one_hot(nearest if self.everywhere < 0 else self.everywhere, 313), stats


def test_accuracy_is_plain_and_in_the_weights_of_the_gradient():
    run, ts = run_and_state()
    batch = tiny.batch_of(run, 16)
    colours = lab.rgb_to_lab(batch["view"])
    nearest = np.asarray(lab.soft_encode(colours[:, ::4, ::4, 1:])[0][..., 0])
    coloured = np.abs(colours[:, ::4, ::4, 1:]).max((1, 2, 3)) > 5

    def measured(everywhere):
        method = Answers(**vars(run.method), everywhere=everywhere)
        _, (state, metrics) = jax.jit(tiny.loss_function(run, method))(ts.params, ts.state, batch)
        return np.asarray(colorization.rebalancing(state["prior"])), metrics

    prior_weights, right = measured(-1)
    weights = prior_weights[nearest] * coloured[:, None, None]
    shares = np.bincount(nearest.ravel(), weights.ravel(), 313) / weights.sum()
    bins, soft = lab.soft_encode(colours[:, ::4, ::4, 1:])
    prior = np.bincount(np.asarray(bins).ravel(), np.asarray(soft).ravel(), 313)
    guesses = {"ab_bin_accuracy": prior.argmax(), "ab_bin_accuracy_rebalanced": (prior * prior_weights).argmax()}
    plain = np.bincount(nearest.ravel(), minlength=313) / nearest.size
    assert shares.argmax() != plain.argmax() or shares.max() < plain.max()
    for name, wanted in (("ab_bin_accuracy", plain), ("ab_bin_accuracy_rebalanced", shares)):
        np.testing.assert_allclose(right[name], 1, rtol=1e-5)
        np.testing.assert_allclose(right[f"{name}/chance"], wanted[guesses[name]], rtol=1e-4)
        np.testing.assert_allclose(measured(int(wanted.argmax()))[1][name], wanted.max(), rtol=1e-4)


def test_pictures():
    run, _ = run_and_state()
    (picture,) = grids.assert_well_formed(run)
    seen, truth = picture.images[:, 0], picture.images[:, 2]
    np.testing.assert_allclose(truth, tiny.batch_of(run, 10)["view"][:8], atol=1e-3)
    assert np.ptp(seen, axis=-1).max() < 1e-3 < np.ptp(truth, axis=-1).max()


@pytest.mark.fast
def test_gray_data_are_refused():
    c = get_config("colorization", "cifar10")
    method = build.method(c.method, models.from_config(c.model))
    with pytest.raises(UserError, match="1 channel"):
        method.check(32, 32, 1)


@pytest.mark.fast
def test_imagenet_sizes():
    """Targets of 44x44 for views of 176, as the authors have them, from a ResNet's map of 6x6."""
    c = get_config("colorization", "imagenet")
    method = build.method(c.method, models.from_config(c.model))
    batch = {"view": jnp.zeros((1, 176, 176, 3))}
    params, state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch, contract.Info(10, 2, 5, 5)))
    assert params["backbone"]["stem"]["kernel"].shape[2] == 1
    logits = jax.eval_shape(lambda p, s: method._predict(p, s["stats"], batch["view"], False)[2], params, state)
    assert logits.shape == (1, 44, 44, 313)
    assert dataclasses.replace(method, stride=8)._decoder().side == 22
