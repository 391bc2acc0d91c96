"""Lab against scikit-image's numbers, and the bins against the authors' table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ssl_jax.augment import lab

# skimage.color.rgb2lab of bytes, scikit-image 0.26.0.
COLOURS = {
    (255, 255, 255): (100.0, -0.00245, 0.00465),
    (255, 0, 0): (53.24059, 80.09231, 67.20275),
    (0, 255, 0): (87.7351, -86.18303, 83.1797),
    (0, 0, 255): (32.29567, 79.18559, -107.8573),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (128, 128, 128): (53.58501, -0.00147, 0.00279),
    (12, 200, 77): (70.81574, -66.54354, 48.87318),
    (3, 5, 8): (1.31361, -0.10595, -1.31938),  # the linear parts of both curves
    (250, 128, 20): (66.3812, 41.06418, 70.00887),
}
# The authors' 313 bins (resources/pts_in_hull.npy): a, and the first and last b of its row.
ROWS = {
    -90: (50, 90),
    -80: (20, 90),
    -70: (0, 90),
    -60: (-20, 90),
    -50: (-30, 100),
    -40: (-40, 100),
    -30: (-50, 100),
    -20: (-50, 100),
    -10: (-60, 100),
    0: (-70, 100),
    10: (-80, 90),
    20: (-80, 90),
    30: (-90, 90),
    40: (-100, 90),
    50: (-100, 80),
    60: (-110, 80),
    70: (-110, 80),
    80: (-110, 70),
    90: (-110, 70),
    100: (-90, 0),
}


@pytest.mark.fast
def test_lab_is_scikit_images():
    rgb = jnp.array(list(COLOURS), jnp.float32) / 255
    np.testing.assert_allclose(lab.rgb_to_lab(rgb), list(COLOURS.values()), atol=2e-3)


@pytest.mark.fast
def test_lab_and_back_and_what_is_out_of_gamut():
    rgb = jnp.asarray(np.random.default_rng(0).random((5, 7, 3)), jnp.float32)
    np.testing.assert_allclose(lab.lab_to_rgb(lab.rgb_to_lab(rgb)), rgb, atol=2e-5)
    outside = lab.lab_to_rgb(jnp.array([[50.0, 110, -110], [99.0, -110, 110], [0.0, 90, 0]]))
    assert np.isfinite(outside).all() and outside.min() >= 0 and outside.max() <= 1


@pytest.mark.fast
def test_bins_are_the_authors():
    table = [(a, b) for a, (first, last) in ROWS.items() for b in range(first, last + 1, lab.GRID)]
    assert len(table) == lab.BINS == 313
    np.testing.assert_array_equal(lab.ab_centres(), table)
    # Also where a step is being traced.
    lab.ab_centres.cache_clear()
    assert jax.eval_shape(lambda x: x + jnp.asarray(lab.ab_centres()), jnp.zeros(2)).shape == (313, 2)


def test_soft_targets_are_those_of_ten_neighbours():
    ab = np.random.default_rng(0).uniform(-110, 110, (50, 2)).astype(np.float32)
    bins, weights = jax.jit(lab.soft_encode)(ab)
    distance, _ = NearestNeighbors(n_neighbors=10).fit(lab.ab_centres()).kneighbors(ab)
    found = np.linalg.norm(lab.ab_centres()[bins] - ab[:, None], axis=-1)
    np.testing.assert_allclose(found, distance, rtol=1e-4, atol=1e-4)  # nearest first
    wanted = np.exp(-(distance**2) / (2 * 5**2) + distance[:, :1] ** 2 / (2 * 5**2))
    np.testing.assert_allclose(weights, wanted / wanted.sum(1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
