"""Jigsaw: the set of permutations, the tiles, and how a puzzle is solved."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import models
from ssl_jax.augment.patches import cut
from ssl_jax.methods import build
from ssl_jax.methods.pretext import jigsaw
from ssl_jax.recipes import get_config
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def method(preset="photo_tiles"):
    c = get_config("jigsaw", preset)
    return build.method(c.method, models.from_config(c.model))


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def hamming(chosen):
    distance = (chosen[:, None] != chosen).sum(-1)
    return distance[~np.eye(len(chosen), dtype=bool)]


@pytest.mark.fast
def test_permutations_are_far_from_each_other_and_always_the_same():
    chosen = jigsaw.permutations(24, 9)
    assert chosen.shape == (24, 9) and (np.sort(chosen, 1) == np.arange(9)).all()
    assert hamming(chosen).min() >= 7  # chance has 3 or so
    assert hamming(jigsaw.permutations(100, 9)).min() == 6  # of the presets at 32 and 28 pixels
    np.testing.assert_array_equal(jigsaw.permutations.__wrapped__(24, 9), chosen)
    np.testing.assert_array_equal(chosen[0], np.arange(9))
    np.testing.assert_array_equal(hamming(jigsaw.permutations(4, 4)), 4)  # a Latin square is the best there is
    # All there are: each once.
    assert len({tuple(p) for p in jigsaw.permutations(24, 4)}) == 24
    with pytest.raises(ValueError, match="not all different"):
        jigsaw.permutations(25, 4)


@pytest.mark.fast
def test_every_permutation_is_chosen_greedily():
    """Against the definition, on four tiles: furthest from the nearest chosen one, then furthest on average."""
    every = np.array(list(itertools.permutations(range(4))))
    chosen = [every[0]]
    while len(chosen) < 12:
        distance = (every[:, None] != np.array(chosen)).sum(-1)
        scores = [tuple(row) for row in np.stack([distance.min(1), distance.sum(1)], 1)]
        chosen.append(every[scores.index(max(scores))])
    np.testing.assert_array_equal(jigsaw.permutations(12, 4), chosen)


@pytest.mark.fast
def test_tiles_lie_anywhere_in_their_cells_and_colours_apart():
    y, x = np.mgrid[:10, :10]
    cell = jnp.asarray(np.stack([10 * y + x] * 3, -1), jnp.float32)
    cells = jnp.broadcast_to(cell, (300, 1, 10, 10, 3))
    tiles = np.asarray(jax.jit(cut, static_argnums=(2, 3))(keys(300), cells, 7, 2))[:, 0]
    corner = np.stack(np.divmod(tiles[:, 0, 0].astype(int), 10), -1)  # [300, 3 channels, 2]
    assert set(np.unique(corner)) == {0, 1, 2, 3}  # a place of 0 or 1, and up to 2 aside
    apart = corner.max(1) - corner.min(1)
    assert apart.max() == 2 and (apart == 0).mean() < 0.5
    np.testing.assert_array_equal(tiles - tiles[:, :1, :1], np.broadcast_to((10 * y + x)[:7, :7, None], tiles.shape))


@pytest.mark.fast
def test_a_tile_is_normalised_on_its_own():
    """Neither brightness nor contrast of a tile tells which others are its neighbours."""
    x = np.random.default_rng(0).uniform(size=(2, 3, 8, 8, 3)).astype(np.float32)
    found = np.asarray(jigsaw.normalised(jnp.asarray(x)))
    wanted = (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(jigsaw.normalised(jnp.asarray(0.5 * x + 0.3)), found, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(np.asarray(jigsaw.normalised(jnp.full((1, 8, 8, 3), 0.25))), 0)


def test_shuffling_features_is_shuffling_tiles():
    """Tiles are encoded once; the answer is that to the tiles in shuffled order."""
    run = tiny.compiled("jigsaw")[0]
    ts, m = tiny.fresh(run), dataclasses.replace(run.method, orders=1)
    tiles = jnp.asarray(np.random.default_rng(0).normal(size=(5, 9, 8, 8, 3)), jnp.float32)
    orders = jnp.array([[0], [1], [5], [11], [23]])
    solve = jax.jit(lambda x, o: m._solve(ts.params, ts.state["stats"], x, o, train=False)[0])
    table = jigsaw.permutations(m.permutations, 9)
    moved = jnp.stack([x[table[o]] for x, o in zip(tiles, orders[:, 0], strict=True)])
    np.testing.assert_allclose(solve(tiles, orders), solve(moved, 0 * orders), atol=1e-5)
    assert np.abs(np.asarray(solve(tiles, orders) - solve(tiles, 0 * orders)))[1:].max() > 1e-3


def test_tile_norm_is_before_the_relu_of_a_tiles_vector():
    """As VISSL has it for ResNet-50: the layer loses its bias, and the scale of the backbone's features is nothing."""
    run, _, _ = tiny.compiled("jigsaw")
    batch = tiny.batch_of(run, 16)
    for tile_norm in (False, True):
        m = dataclasses.replace(run.method, tile_norm=tile_norm)
        params, state = m.init(jax.random.key(0), batch, run.info)
        assert set(params["tile"]) == ({"out", "out_norm"} if tile_norm else {"out"})
        assert set(params["tile"]["out"]) == ({"kernel"} if tile_norm else {"kernel", "bias"})
        loss = jax.jit(tiny.loss_function(run, m))
        larger = {**params, "tile": {**params["tile"], "out": jax.tree.map(lambda x: 3 * x, params["tile"]["out"])}}
        change = abs(loss(larger, state, batch)[0] - loss(params, state, batch)[0])
        assert change < 1e-4 if tile_norm else change > 1e-3


class WithoutOrder(jigsaw.Jigsaw):
    """All tiles of a puzzle are one."""

    def _puzzles(self, images, keys):
        tiles, orders = super()._puzzles(images, keys)
        return tiles[:, jnp.zeros(9, int)], orders


def test_puzzles_of_equal_tiles_are_not_solved():
    run = tiny.run("jigsaw", batch_size=32, epochs=5, **{"model.width": 8})
    right = tiny.overfit(run, 60)[3][-1]["jigsaw_top1"]
    broken = tiny.overfit(run, 60, WithoutOrder(**vars(run.method)))[3][-1]["jigsaw_top1"]
    assert right > 0.5
    assert broken < 0.4  # which four puzzles an image has can be learnt, not which of them is which


def test_pictures_show_the_answer():
    run = tiny.compiled("jigsaw")[0]
    ts = tiny.fresh(run)
    (picture,) = run.method.pictures(ts.params, ts.state, tiny.batch_of(run, 16), rng=jax.random.key(0))
    tiny.assert_picture(picture)
    table = jigsaw.permutations(24, 9)
    for row, (_, caption, _) in zip(picture.images, picture.captions, strict=True):
        puzzle, answer, solution = (x.reshape(3, 10, 3, 10, 3).swapaxes(1, 2).reshape(9, -1) for x in row)
        assert any((puzzle == solution[p]).all() for p in table)  # one of the permutations
        right = (answer == solution).all(1).sum()
        assert caption.startswith(f"{right} of 9") or (answer == solution).all()


@pytest.mark.fast
def test_what_has_no_meaning_is_refused():
    for changes, words in (({"tile": 10}, "does not fit the 10"), ({"grid": 4}, "grid"), ({"permutations": 1}, "2 to")):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(method(), **changes).check(32, 32, 3)
    for preset in ("photo_tiles", "fashion_mnist"):
        with pytest.raises(UserError, match="8 x 8 pixels are too small for 3 x 3"):
            method(preset).check(8, 8, 1)
    assert method("imagenet").permutations == 2000
