"""The table of random streams."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from ssl_jax import batch, dist, streams
from ssl_jax.augment.render import render, render_views
from ssl_jax.augment.view import View
from ssl_jax.data import loader

VIEWS = {"large1": View(size=4), "large2": View(size=4), "small1": View(size=2)}


@pytest.mark.fast
def test_numbers_are_those_of_earlier_versions():
    """They stand in no checkpoint: a run could not tell that it went on with others."""
    assert [streams.view(VIEWS, name) for name in VIEWS] == [0, 1, 2]
    assert streams.loss(VIEWS) == 3
    assert (streams.WEIGHTS, streams.EPOCH) == (2147483647, 2147483647)
    assert (streams.EPOCH_VIEWS, streams.EPOCH_METHOD) == (0, 1)
    assert [streams.part(("source", "target"), name) for name in ("source", "target")] == [2147483646, 2147483645]


@pytest.mark.fast
def test_no_two_streams_of_a_key_are_one():
    of_update = [streams.view(VIEWS, name) for name in VIEWS] + [streams.loss(VIEWS), streams.EPOCH, streams.VARIANT]
    of_update += [streams.part(("source", "target"), name) for name in ("source", "target")]
    assert len(set(of_update)) == len(of_update)


def test_views_are_drawn_from_their_streams():
    rng, positions = jax.random.key(5), jnp.array([7, 2])
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
    found = render_views(VIEWS, rng, positions, images)
    for name, view in VIEWS.items():
        for i, position in enumerate(positions):
            key = jax.random.fold_in(jax.random.fold_in(rng, streams.view(VIEWS, name)), position)
            np.testing.assert_allclose(found[name][i], render(view, key, images[i]), atol=1e-5)


def test_the_loss_has_a_key_of_its_own():
    run = tiny.run("simclr")
    make, data = batch.maker(run), loader.on_devices(run.train, run.mesh)

    def key_of(raw, rows, data):
        return jax.random.key_data(make(jax.random.wrap_key_data(raw), 4, rows, data)[1])

    raw = jax.random.key_data(jax.random.key(1))
    found = dist.map_replicas(key_of, run.mesh, (P(), P(dist.AXIS), P()), P())(raw, jnp.arange(8), data)
    wanted = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 2), 4)
    np.testing.assert_array_equal(found, jax.random.key_data(wanted))


def test_multitask_is_one_unnamed_part_with_the_views_of_all_tasks():
    views = {"rotation/view": View(size=4), "jigsaw/view": View(size=2)}
    assert batch.views_of(views, "") == views
    assert batch.views_of(views | {"both": View()}, "rotation") == {"both": View(), "view": View(size=4)}
