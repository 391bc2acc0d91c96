"""Learning to count: its loss, what it is compared with, and its collapse without a margin."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny
from tiny import generator

from ssl_jax import models
from ssl_jax.methods import build
from ssl_jax.methods.pretext import counting
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
relu = functools.partial(np.maximum, 0)


def inputs():
    return relu(generator(4, 6, 0.2)), 1.5 * relu(generator(4, 6, 0.9)), relu(generator(4, 6, 2.0))


def wrong_hinge(whole, tiles, other, margin=10.0):
    """A widely used port: the hinge of each element, and their mean."""
    return jnp.mean(jnp.square(whole - tiles)) + jnp.mean(jax.nn.relu(margin - jnp.square(other - tiles)))


@pytest.mark.fast
def test_loss_and_gradient_are_those_of_the_formula():
    x, t, y = inputs()
    assert float(counting.counting_loss(x, t, y)) == pytest.approx(8.488249, abs=2e-6)  # the specification's value
    assert abs(float(wrong_hinge(x, t, y)) - 8.488249) > 0.1
    grads = jax.grad(counting.counting_loss, argnums=(0, 1, 2))(*map(jnp.asarray, (x, t, y)))
    open_ = (((y - t) ** 2).sum(1) < 10)[:, None]
    assert 0 < open_.sum() < 4 or open_.all()
    near, far = 2 * (x - t) / 4, 2 * (y - t) * open_ / 4
    for found, wanted in zip(grads, (near, -near + far, -far), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.fast
def test_without_counts_it_is_the_margin_and_far_apart_it_is_free():
    none = jnp.zeros((3, 5))
    assert float(counting.counting_loss(none, none, none)) == 10.0
    assert float(counting.counting_loss(none, none, none + 1.5)) == 0.0  # 5 x 1.5^2 > 10


@pytest.mark.fast
def test_halving_is_pillows_in_four_ways():
    x = np.random.default_rng(0).uniform(size=(16, 16)).astype(np.float32)
    ways = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX)
    for matrix, way in zip(np.asarray(counting.halvings(16)), ways, strict=True):
        wanted = np.asarray(Image.fromarray(x).resize((8, 8), way))
        np.testing.assert_allclose(matrix @ x @ matrix.T, wanted, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("gray", [0.0, 0.67, 1.0])
def test_every_image_is_compared_with_another_of_its_kind(gray):
    position = jnp.asarray(np.random.default_rng(0).permutation(15))
    is_gray, other = map(np.asarray, counting.pairing(jax.random.key(3), position, gray))
    assert is_gray.sum() == round(15 * gray)
    assert sorted(other) == list(range(15)) and (other != np.arange(15)).all()
    np.testing.assert_array_equal(is_gray[other], is_gray)
    # What an image meets depends on positions alone, not on rows.
    sorted_gray, sorted_other = map(np.asarray, counting.pairing(jax.random.key(3), jnp.arange(15), gray))
    np.testing.assert_array_equal(sorted_gray[position], is_gray)
    np.testing.assert_array_equal(sorted_other[position], np.asarray(position)[other])


@pytest.mark.fast
def test_a_single_image_of_its_kind_is_refused():
    for count, gray in ((1, 0.0), (4, 0.67)):
        with pytest.raises(UserError, match="nothing to compare"):
            counting.pairing(jax.random.key(0), jnp.arange(count), gray)


@functools.cache
def method():
    c = get_config("counting", "photo_tiles")
    return build.method(c.method, models.from_config(c.model))


@pytest.mark.fast
def test_streams_are_the_halved_image_and_its_quarters_grey_together():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 32, 32, 3)), jnp.float32)
    gray = jnp.arange(40) % 2 == 1
    keys = jax.random.split(jax.random.key(0), 40)
    streams = np.asarray(jax.jit(method()._streams)(x, gray, keys))
    assert streams.shape == (40, 5, 16, 16, 3)
    same = (streams == streams[..., :1]).all((1, 2, 3, 4))
    np.testing.assert_array_equal(same, gray)
    quarters = streams[0, 1:].reshape(2, 2, 16, 16, 3).swapaxes(1, 2).reshape(32, 32, 3)
    np.testing.assert_array_equal(quarters, x[0])
    matrices = np.asarray(counting.halvings(32))
    halves = np.einsum(
        "kih,nhwc,kjw->nkijc", matrices, np.where(gray[:, None, None, None], x.mean(-1, keepdims=True), x), matrices
    )
    fits = np.abs(halves - streams[:, :1]).max((2, 3, 4)) < 1e-4  # [40, 4]
    assert (fits.sum(1) == 1).all() and (fits.sum(0) > 2).all()  # each image one way, all ways occur


class WithoutOthers(counting.Counting):
    """Without the second term nothing is counted."""

    def loss(self, params, state, batch, *, rng, step, info, train=True):
        _, extra = super().loss(params, state, batch, rng=rng, step=step, info=info, train=train)
        streams = self._streams(
            batch["view"], jnp.zeros(len(batch["view"]), bool), jax.random.split(rng, len(batch["view"]))
        )
        phi, _, _ = self._count(params, state["stats"], streams, train=train)
        return jnp.mean(jnp.sum(jnp.square(phi[:, 0] - phi[:, 1:].sum(1)), -1)), extra


def test_without_the_contrast_nothing_is_counted():
    run = tiny.run("counting", batch_size=32, epochs=5, **{"model.width": 8})
    right = tiny.overfit(run, 80)[3][-1]
    broken = tiny.overfit(run, 80, WithoutOthers(**vars(run.method)))
    assert right["pair_accuracy"] > 0.9 and right["active_share"] > 0.02
    phi = broken[2][-1]
    assert phi < 0.5  # a loss near zero, and yet:
    loss = jax.jit(tiny.loss_function(run))(broken[0], broken[1], tiny.batch_of(run, 32))[0]
    assert float(loss) > 0.8 * run.method.margin


def test_pictures():
    run = tiny.compiled("counting")[0]
    ts = tiny.fresh(run)
    (picture,) = run.method.pictures(ts.params, ts.state, tiny.batch_of(run, 16), rng=jax.random.key(0))
    tiny.assert_picture(picture)
    np.testing.assert_array_equal(picture.images[0, 5], picture.images[1, 0])  # the other image
    whole = np.asarray(tiny.batch_of(run, 1)["view"][0]) * 0.251 + 0.473
    np.testing.assert_allclose(picture.images[0, 1], whole[:16, :16].clip(0, 1), atol=1e-5)


@pytest.mark.fast
def test_what_has_no_meaning_is_refused():
    for changes, words in (
        ({"view": dataclasses.replace(method().view, size=31)}, "even"),
        ({"view": dataclasses.replace(method().view, mean=(0.4, 0.4, 0.4))}, "one value for all"),
        ({"gray": 1.5}, "share"),
    ):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(method(), **changes).check(32, 32, 3)
