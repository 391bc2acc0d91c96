"""PIRL: what the jigsaw branch sees, both terms against one bank, and its collapse without noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import dist, models
from ssl_jax.methods import build, contract
from ssl_jax.methods.joint import pirl
from ssl_jax.models import parts
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError


@functools.cache
def imagenet():
    c = get_config("pirl", "imagenet")
    return build.method(c.method, models.from_config(c.model))


@pytest.mark.fast
def test_patches_are_one_to_a_cell_in_a_random_order():
    # Every cell of 85 pixels has a value of its own, so that a patch tells where it comes from.
    plain = pirl.View(size=64, crop="shift", pad=0, order=("crop",), mean=(0.0,), std=(1.0,))
    method = dataclasses.replace(imagenet(), patch=plain)
    cells = jnp.arange(9.0).reshape(3, 3).repeat(85, 0).repeat(85, 1) / 10
    large = jnp.broadcast_to(cells[None, ..., None], (4, 255, 255, 1))
    patches = np.asarray(jax.jit(method._jigsaw)(large, jax.random.split(jax.random.key(0), 4)))
    assert patches.shape == (4, 9, 64, 64, 1)
    assert (patches == patches[:, :, :1, :1]).all()
    orders = np.round(patches[:, :, 0, 0, 0] * 10).astype(int)
    np.testing.assert_array_equal(np.sort(orders, 1), np.tile(np.arange(9), (4, 1)))
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.fast
def test_heads_have_the_papers_sizes():
    """2048 to 128 for the image and for each patch, 9 x 128 to 128 for all of them."""
    method = imagenet()
    batch = {name: jnp.zeros((1, v.size, v.size, 3)) for name, v in method.views().items()}
    params, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), batch, contract.Info(10, 2, 5, 5)))
    sizes = {k: sum(x.size for x in jax.tree.leaves(params[k])) for k in params if k != "backbone"}
    assert sizes == {"image": 2048 * 128 + 128, "patch": 2048 * 128 + 128, "jigsaw": 1152 * 128 + 128}


@pytest.mark.fast
def test_a_patch_larger_than_its_cell_is_refused():
    c = get_config("pirl", "cifar10")
    c.method.patch.size = 11
    method = build.method(c.method, models.from_config(c.model))
    with pytest.raises(UserError, match=r"patch\.size"):
        method.check(32, 32, 3)
    with pytest.raises(UserError, match="grid"):
        dataclasses.replace(method, grid=1).check(32, 32, 3)


def test_each_term_has_its_branch_and_only_the_image_moves_the_bank():
    run, _, _ = tiny.compiled("pirl")
    ts, batch = jax.device_get(tiny.fresh(run)), tiny.batch_of(run, 4)
    ts.state["z"] = np.float32(2000)  # else it is estimated on the patches, and the image's term sees them there
    other = {**batch, "large": 1 - batch["large"]}
    losses, banks = {}, []
    for weight in (0.0, 1.0):
        loss = jax.jit(tiny.loss_function(run, dataclasses.replace(run.method, weight=weight, criterion="nce")))
        for name, views in (("given", batch), ("other patches", other)):
            value, (state, _) = loss(ts.params, ts.state, views)
            losses[weight, name] = float(value)
            banks.append(jax.device_get(state["bank"]))
    assert losses[0.0, "other patches"] == losses[0.0, "given"]  # lambda weighs the jigsaw
    assert abs(losses[1.0, "other patches"] - losses[1.0, "given"]) > 1e-3
    for bank in banks[1:]:
        tiny.assert_same(bank, banks[0])
    # The rows are half the old ones and half the image's embeddings in training.
    method = run.method

    def embed(x):
        h, _ = parts.apply(method.backbone, "backbone", ts.params, ts.state["stats"], x, train=True)
        return parts.apply(method._heads()["image"], "image", ts.params, {}, h, train=True)[0]

    rows = P(dist.AXIS)
    v = np.asarray(dist.map_replicas(embed, dist.make_mesh(jax.devices()[:1]), (rows,), rows)(batch["view"]))
    wanted = (np.asarray(ts.state["bank"])[:4] + v / np.linalg.norm(v, axis=1, keepdims=True)) / 2
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(banks[0][:4], wanted, rtol=1e-4, atol=1e-5)
    tiny.assert_same(banks[0][4:], ts.state["bank"][4:])


@pytest.mark.fast
def test_the_image_drawn_as_its_own_noise_is_no_negative():
    """In the cross-entropy; NCE has it in its noise distribution. In value and gradient, also all scores equal."""
    itself = np.zeros((3, 6), bool)
    itself[1, 4], itself[2, 1:] = True, True  # the last has no other candidate left

    def wanted(scores):
        logits = np.where(itself, -np.inf, scores / 0.07)
        return (np.log(np.exp(logits).sum(1)) - logits[:, 0]).mean()

    drawn = np.random.default_rng(0).uniform(-1, 1, (3, 6))
    for scores in (drawn, np.full((3, 6), 0.5)):
        with jax.enable_x64(True):
            value, grad = jax.value_and_grad(pirl.noise_cross_entropy)(jnp.asarray(scores), jnp.asarray(itself), 0.07)
        assert float(value) == pytest.approx(wanted(scores), rel=1e-12)
        for at in np.ndindex(3, 6):
            there, here = (
                wanted(scores + h * (np.arange(18).reshape(3, 6) == np.ravel_multi_index(at, (3, 6))))
                for h in (1e-6, -1e-6)
            )
            assert float(grad[at]) == pytest.approx((there - here) / 2e-6, rel=1e-5, abs=1e-8)
        assert not np.any(np.asarray(grad)[itself])
    method = dataclasses.replace(imagenet(), criterion="cross_entropy")
    scores = jnp.asarray(drawn, jnp.float32)
    found = method._term(scores, jnp.asarray(itself), jnp.ones(()), contract.Info(10, 2, 5, 5))
    np.testing.assert_allclose(found, wanted(np.asarray(scores, np.float64)), rtol=1e-5)


def test_running_statistics_are_those_of_whole_images():
    run, _, _ = tiny.compiled("pirl")
    ts, batch = tiny.fresh(run), tiny.batch_of(run, 16)
    loss = jax.jit(tiny.loss_function(run))
    states = [loss(ts.params, ts.state, {**batch, "large": large})[1][0] for large in (batch["large"], -batch["large"])]
    tiny.assert_same(*(jax.device_get(state["stats"]["backbone"]) for state in states))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), ts.state["stats"], states[0]["stats"])
    assert max(jax.tree.leaves(moved["backbone"])) > 1e-3


class OneRow(pirl.PIRL):
    """All images look up and move one row of the bank."""

    def loss(self, params, state, batch, **rest):
        return super().loss(params, state, {**batch, "index": 0 * batch["index"]}, **rest)


def test_with_one_row_for_all_it_collapses():
    run = tiny.run("pirl", batch_size=32, epochs=5, **{"model.width": 16})
    right = tiny.overfit(run, 60)[3][-1]
    broken = tiny.overfit(run, 60, OneRow(**vars(run.method)))[3][-1]
    healthy = 0.5 / run.method.out**0.5
    assert right["projection_std"] > healthy and right["image_top1"] > 0.9
    assert broken["projection_std"] < 0.5 * healthy
