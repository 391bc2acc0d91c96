"""Context prediction: labels, and the guards against what would give a place away."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny

from ssl_jax import data, models
from ssl_jax.augment import geometry
from ssl_jax.augment.patches import cut, grid, sometimes_shrunk
from ssl_jax.methods import build
from ssl_jax.methods.pretext import context_prediction as cp
from ssl_jax.recipes import get_config
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def method(preset="photo_tiles", **changes):
    c = get_config("context_prediction", preset)
    return dataclasses.replace(build.method(c.method, models.from_config(c.model)), **changes)


def keys(n):
    return jax.random.split(jax.random.key(0), n)


@pytest.mark.fast
def test_labels_are_the_authors():
    """From the place (x, y) of the second patch seen from the first, y downwards; the other way round it is 7 - k."""
    wanted = {(-1, -1): 0, (0, -1): 1, (1, -1): 2, (-1, 0): 3, (1, 0): 4, (-1, 1): 5, (0, 1): 6, (1, 1): 7}
    seen = {}
    for first, second, label in zip(cp.FIRST, cp.SECOND, cp.LABELS, strict=True):
        step = (second % 3 - first % 3, second // 3 - first // 3)
        assert wanted[step] == label
        seen[first, second] = label
    assert all(seen[b, a] == 7 - label for (a, b), label in seen.items())
    assert np.bincount(cp.LABELS).tolist() == [2] * 8 and len(cp.NAMES) == 8


@pytest.mark.fast
@pytest.mark.parametrize("preset", ["photo_tiles", "fashion_mnist", "cifar10", "cifar10_small"])
def test_no_edge_runs_on_from_patch_to_patch(preset):
    """In all presets but Kolesnikov's of ImageNet, whose patches may touch, once in many."""
    method = get_config("context_prediction", preset).method
    assert method.gap > method.jitter


@pytest.mark.fast
def test_patches_keep_their_distance_and_move():
    """Of an image whose pixels tell their place, patches are neighbours 3 - 2 to 3 + 2 pixels apart."""
    y, x = np.mgrid[:32, :32]
    image = jnp.asarray(np.stack([y, x], -1), jnp.float32)[None].repeat(200, 0)
    patches = np.asarray(jax.jit(cut, static_argnums=2)(keys(200), grid(image, 10, 11), 8))
    assert patches.shape == (200, 9, 8, 8, 2)
    corners = patches[:, :, 0, 0].astype(int)  # [200, 9, 2]
    np.testing.assert_array_equal(
        patches[..., 0] - corners[:, :, None, None, 0], np.broadcast_to(y[:8, :8], (200, 9, 8, 8))
    )
    cells = 11 * np.stack(np.divmod(np.arange(9), 3), -1)
    moves = corners - cells
    assert set(np.unique(moves)) == {0, 1, 2}  # every place, and no other
    assert abs(np.corrcoef(moves[:, 0, 0], moves[:, 1, 0])[0, 1]) < 0.3  # each patch on its own
    gaps = corners[:, 1, 1] - corners[:, 0, 1] - 8
    assert gaps.min() >= 1 and gaps.max() <= 5  # no edge runs on from one patch into the next


@pytest.mark.fast
def test_one_colour_is_left_and_noise_says_nothing():
    x = jnp.asarray(np.random.default_rng(0).uniform(2, 3, (100, 9, 4, 4, 3)), jnp.float32)
    found = np.asarray(jax.jit(cp.one_colour)(keys(100), x))
    kept = (found == np.asarray(x)).all((2, 3))  # [100, 9, 3]
    assert (kept.sum(-1) == 1).all()
    share = kept.mean((0, 1))
    assert np.abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 900)
    noise = found[~np.broadcast_to(kept[:, :, None, None], found.shape)]
    assert np.abs(255 * noise).max() <= 0.5001 and abs(255 * noise.mean()) < 0.01
    assert 255 * noise.std() == pytest.approx(12**-0.5, rel=0.02)
    # Not the same noise in two channels of a patch, nor in two patches of an image that keep the same one.
    for image, chosen in zip(found[:20], kept[:20].argmax(-1), strict=True):
        first, second = np.delete(image[0], chosen[0], axis=-1).reshape(-1, 2).T
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.9
        for other in np.flatnonzero(chosen[1:] == chosen[0]) + 1:
            there = np.delete(image[other], chosen[other], axis=-1).reshape(-1, 2)
            assert abs(np.corrcoef(first, there[:, 0])[0, 1]) < 0.9


@pytest.mark.fast
def test_shrinking_is_pillows():
    """Bilinear, antialiased, down to the side and back up."""
    x = np.random.default_rng(0).uniform(size=(12, 12, 1)).astype(np.float32)
    for side in (3, 5, 11, 12):
        small = Image.fromarray(x[..., 0]).resize((side, side), Image.Resampling.BILINEAR)
        wanted = np.asarray(small.resize((12, 12), Image.Resampling.BILINEAR))
        found = jax.jit(geometry.blurred_by_shrinking)(jnp.asarray(x), jnp.asarray(side))
        np.testing.assert_allclose(found[..., 0], wanted, atol=1e-5)


@pytest.mark.fast
def test_a_third_of_the_patches_is_shrunk():
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(60, 9, 8, 8, 1)), jnp.float32)
    found = np.asarray(jax.jit(sometimes_shrunk, static_argnums=(2, 3))(keys(60), x, 0.33, 4))
    changed = (found != np.asarray(x)).any((2, 3, 4))
    assert abs(changed.mean() - 0.33) < 4 * np.sqrt(0.33 * 0.67 / 540)
    assert np.isfinite(found).all()
    power = np.asarray(cp.unit_power(jnp.asarray(found)))
    np.testing.assert_allclose((power**2).mean((2, 3, 4)), 1, rtol=1e-3)
    assert np.isfinite(np.asarray(cp.unit_power(jnp.zeros((1, 4, 4, 1))))).all()
    np.testing.assert_allclose(np.asarray(cp.centred(jnp.asarray(found))).mean((2, 3)), 0, atol=1e-6)


def test_a_pair_is_judged_by_its_own_two_patches_and_both_ways():
    """What is around a pair, in the image or in the batch, does not move it (but for BatchNorm, in training)."""
    m, run = method(), tiny.compiled("context_prediction")[0]
    m = dataclasses.replace(m, backbone=run.method.backbone)
    ts = tiny.fresh(run)
    predict = jax.jit(lambda x: m._predict(ts.params, ts.state["stats"], x, train=False)[0])
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 8, 3)).astype(np.float32)
    other = x.copy()
    other[0, 7] += 1.0  # the lower neighbour
    other[1] += 1.0
    gap = np.abs(np.asarray(predict(jnp.asarray(other))) - np.asarray(predict(jnp.asarray(x))))[0].max(-1)
    concerned = (cp.FIRST == 7) | (cp.SECOND == 7)
    assert (gap[concerned] > 1e-4).all() and (gap[~concerned] < 1e-6).all()


class WithoutPlace(cp.ContextPrediction):
    """Every patch is the centre: nothing to be told."""

    def _patches(self, images, keys):
        return super()._patches(images, keys)[:, jnp.full(9, cp.CENTRE)]


def test_equal_patches_teach_nothing():
    run = tiny.run("context_prediction", batch_size=32, epochs=5, **{"model.width": 8})
    right = tiny.overfit(run, 40)[2][-1]
    broken = tiny.overfit(run, 40, WithoutPlace(**vars(run.method)))[2][-1]
    assert right < np.log(8) - 0.2
    assert broken > np.log(8) - 0.02


def test_pictures():
    run = tiny.compiled("context_prediction")[0]
    ts = tiny.fresh(run)
    (picture,) = run.method.pictures(ts.params, ts.state, tiny.batch_of(run, 16), rng=jax.random.key(0))
    tiny.assert_picture(picture)
    assert picture.captions[1][0] == "above"
    for row, (truth, answer) in zip(picture.images, picture.captions, strict=True):
        assert (row[0] == row[1]).all() == (answer == f"network: {truth}")
        assert (row[0][9:17, 9:17] == row[1][9:17, 9:17]).all() and (row[0][8] == 1).all()  # centre; gap
    (few,) = run.method.pictures(ts.params, ts.state, tiny.batch_of(run, 2), rng=jax.random.key(0))
    assert len(few.images) == 2


@pytest.mark.fast
def test_what_has_no_meaning_is_refused():
    assert method("imagenet").view.size == 255 and cp.ContextPrediction(None).view.size == 3 * 96 + 2 * 48 + 14
    for changes, words in (
        ({"patch": 9}, "needs? 35"),
        ({"jitter": 4}, "patches overlap"),
        ({"smallest": 8}, "smallest"),
    ):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(method(), **changes).check(32, 32, 3)
    with pytest.raises(UserError, match="drop_colours"):
        method().check(32, 32, 1)
    with pytest.raises(UserError, match="8 x 8 pixels are too small for 3 x 3"):
        method("fashion_mnist").check(8, 8, 1)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["context_prediction", "jigsaw"])
def test_batchnorm_of_few_images_is_refused(name):
    """Its statistics would tell a patch of the others of its image."""
    for groups, norm, fits in ((1, "batch", True), (2, "batch", True), (4, "batch", False), (16, "group", True)):
        c = get_config(name, "photo_tiles")
        c.model.bn_groups, c.model.norm, c.batch_size = groups, norm, 16
        make = lambda c=c: jax.eval_shape(prepare(c, jax.devices()[:1], splits()).init)  # noqa: E731
        if fits:
            make()
        else:
            with pytest.raises(UserError, match="leave 8 images to a group"):
                make()


def splits():
    images = np.zeros((16, 32, 32, 3), np.uint8)
    return data.Dataset("grey", images, np.zeros(16, np.int32), ("one",)), None
