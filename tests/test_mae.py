"""MAE: masking, target and loss against references, and what encoder and decoder may see."""

import dataclasses

import grids
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.methods import build
from ssl_jax.methods.masked import mae
from ssl_jax.models.patches import patches, unpatched
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEYS = jax.random.split(jax.random.key(0), 5)


@pytest.mark.fast
def test_loss_of_the_specification():
    target, prediction = (np.stack([tiny.generator(4, 6, s) for s in pair]) for pair in ((0.3, 1.1), (0.5, 1.4)))
    mask = jnp.array([[1.0, 1, 1, 0], [1, 0, 1, 1]])
    normalised = mae.normalised(jnp.asarray(target))[0]
    np.testing.assert_allclose(mae.masked_error(prediction, normalised, mask), 0.110047, atol=1e-5)
    np.testing.assert_allclose(mae.masked_error(prediction, target, mask), 0.033039, atol=1e-5)


def test_loss_of_the_reference(golden):
    given = np.load(golden / "mae_norm_pix.npz")
    cut = patches(jnp.asarray(given["images_nhwc"], jnp.float32), int(given["patch"]))
    np.testing.assert_allclose(cut, given["patches"], rtol=1e-5, atol=1e-6)
    mask, prediction = (jnp.asarray(given[name], jnp.float32) for name in ("mask", "pred"))

    def loss(prediction):
        return mae.masked_error(prediction, mae.normalised(cut)[0], mask)

    value, gradient = jax.value_and_grad(loss)(prediction)
    np.testing.assert_allclose(value, given["loss"], rtol=1e-5)
    wanted = 2 * (given["pred"] - np.asarray(mae.normalised(cut)[0])) / given["pred"].shape[-1]
    wanted *= given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(gradient, wanted, atol=1e-6 * np.abs(wanted).max())
    assert not np.any(np.asarray(gradient)[given["mask"] == 0])  # visible patches are no part of the loss


@pytest.mark.fast
def test_who_predicts_the_mean():
    """(n - 1) / n for normalised patches of n values; nothing for one without contrast."""
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 768)), jnp.float32)
    ones = jnp.ones((3, 4))
    np.testing.assert_allclose(mae.masked_error(0.0, mae.normalised(noise)[0], ones), 767 / 768, rtol=1e-4)
    flat = mae.normalised(jnp.full((1, 4, 768), 0.3))[0]
    assert np.abs(flat).max() < 1e-2


@pytest.mark.fast
def test_masking():
    visible, restore, mask = mae.random_masking(KEYS, 36, 9)
    assert visible.shape == (5, 9) and (mask.sum(1) == 27).all()
    assert len({tuple(sorted(row)) for row in np.asarray(visible).tolist()}) == 5  # each image its own
    for rows, back, hidden in zip(*map(np.asarray, (visible, restore, mask)), strict=True):
        order = np.concatenate([rows, np.setdiff1d(np.arange(36), rows)])
        np.testing.assert_array_equal(np.sort(back), np.arange(36))
        np.testing.assert_array_equal(np.where(hidden, -1, order[back]), np.where(hidden, -1, np.arange(36)))
        np.testing.assert_array_equal(hidden, ~np.isin(np.arange(36), rows))
    again = mae.random_masking(KEYS[::-1], 36, 9)[2]
    np.testing.assert_array_equal(again, mask[::-1])
    share = mae.random_masking(jax.random.split(jax.random.key(1), 2000), 16, 4)[2].mean(0)
    assert np.abs(share - 0.75).max() < 4 * (0.75 * 0.25 / 2000) ** 0.5  # uniformly


@pytest.mark.fast
def test_patches_and_back():
    x = jnp.asarray(np.random.default_rng(0).random((2, 6, 9, 3)), jnp.float32)
    cut = patches(x, 3)
    np.testing.assert_array_equal(cut[1, 4].reshape(3, 3, 3), x[1, 3:, 3:6])
    np.testing.assert_array_equal(unpatched(cut, (2, 3), 3), x)


def run_and_state():
    run, _, _ = tiny.compiled("mae")
    return run, tiny.fresh(run)


def test_the_encoder_sees_visible_patches_alone():
    run, ts = run_and_state()
    method, batch = run.method, tiny.batch_of(run, 4)
    predict = jax.jit(lambda batch: method._predict(ts.params, ts.state["stats"], batch, jax.random.key(1), False))
    h, y, mask, _ = predict(batch)
    hidden = unpatched(jnp.broadcast_to(mask[..., None], (*mask.shape, 48)), (8, 8), 4)
    for kind, same in ((hidden, True), (1 - hidden, False)):
        h2, y2, _, _ = predict(batch | {"view": batch["view"] + kind * 3})
        assert (np.abs(h2 - h).max() < 1e-6) == same and (np.abs(y2 - y).max() < 1e-6) == same
    assert h.shape == (4, 1 + 16, 64)


def test_tokens_in_any_order_are_those_of_the_map():
    """Positions are added before patches are chosen: encoding all patches shuffled is encoding the image."""
    run, ts = run_and_state()
    x, net = tiny.batch_of(run, 2)["view"], run.method.backbone
    order = jnp.stack([jnp.arange(64)[::-1], jnp.roll(jnp.arange(64), 5)])
    encode = jax.jit(
        lambda **kind: net.apply({"params": ts.params["backbone"]}, x, train=False, **kind), static_argnames="pool"
    )
    tokens, mapped, token = encode(pool=False, visible=order), encode(pool=False), encode(pool=True)
    mapped = jnp.take_along_axis(mapped.reshape(2, 64, -1), order[..., None], 1)
    np.testing.assert_allclose(tokens[:, 1:], mapped, atol=1e-4)
    np.testing.assert_allclose(tokens[:, 0], token, atol=1e-4)
    # Features for evaluation are the class token of the whole image.
    np.testing.assert_allclose(tiny.features(run.method, ts.params, ts.state, x), token, atol=1e-4)


def test_pictures():
    run, _ = run_and_state()
    (picture,) = grids.assert_well_formed(run)
    seen, rebuilt, truth = picture.images.swapaxes(0, 1)
    visible = np.isclose(seen, truth, atol=1e-5).all(-1)
    assert 0.2 < visible.mean() < 0.4
    np.testing.assert_allclose(rebuilt[visible], truth[visible], atol=1e-5)


@pytest.mark.fast
def test_the_authors_sizes():
    """ViT-B encodes 49 of 196 patches; the decoder is 512 wide, of 8 blocks, with a mask token and no positions."""
    c = get_config("mae", "imagenet")
    method = build.method(c.method, models.from_config(c.model))
    batch = {"view": jnp.zeros((1, 224, 224, 3))}
    method.check(256, 256, 3)
    assert method._visible() == 49
    decoder = method._decoder(batch)
    shapes = jax.eval_shape(
        lambda: decoder.init(KEYS[0], jnp.zeros((1, 50, 768)), train=True, restore=jnp.zeros((1, 196), int))
    )
    block = 12 * 512**2 + 13 * 512
    wanted = (768 + 1) * 512 + 512 + 8 * block + 2 * 512 + (512 + 1) * 768
    assert sum(x.size for x in jax.tree.leaves(shapes)) == wanted


@pytest.mark.fast
def test_what_is_refused():
    c = get_config("mae", "cifar10_small")
    method = build.method(c.method, models.from_config(c.model))
    for wrong, word in (
        (dict(mask_ratio=0.999), "mask_ratio"),
        (dict(mask_ratio=0.0), "mask_ratio"),
        (dict(heads=3), "heads"),
    ):
        with pytest.raises(UserError, match=word):
            dataclasses.replace(method, **wrong).check(32, 32, 3)
    c.model.name = "resnet18"
    with pytest.raises(UserError, match=r"config\.model\.name"):
        build.method(c.method, models.from_config(c.model)).check(32, 32, 3)
