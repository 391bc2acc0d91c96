"""What every method's pictures must be."""

import jax
import numpy as np
import tiny


def assert_well_formed(run, count: int = 10):
    """The pictures of a fresh method on a few rows: up to 8 of them, finite, between black and white, with titles."""
    ts = tiny.fresh(run)
    pictures = run.method.pictures(ts.params, ts.state, tiny.batch_of(run, count), rng=jax.random.key(2))
    assert pictures
    for picture in pictures:
        rows, columns, height, width, channels = picture.images.shape
        assert isinstance(picture.images, np.ndarray)
        assert rows == min(count, 8) and columns == len(picture.columns) and channels in (1, 3)
        assert height == width and picture.title.endswith(".")
        assert np.isfinite(picture.images).all() and picture.images.min() >= 0 and picture.images.max() <= 1
    return pictures
