"""The generator in NumPy gives JAX's keys and numbers bit for bit."""

import jax
import numpy as np
import pytest

from ssl_jax.augment import threefry
from ssl_jax.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_keys_and_numbers_are_those_of_jax(seed):
    key = jax.random.key(seed)
    raw = np.asarray(jax.random.key_data(key))
    data = np.array([0, 1, 77, 2**31 - 1, 2**32 - 1], np.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 12345), data)
    found = threefry.fold_in(threefry.fold_in(raw, 12345), data)
    np.testing.assert_array_equal(found, jax.random.key_data(keys))
    numbers = jax.vmap(lambda k: jax.random.uniform(k, (320,)))(keys)
    np.testing.assert_array_equal(threefry.uniform(found, 320), numbers)


@pytest.mark.fast
def test_keys_broadcast():
    keys = threefry.fold_in(np.zeros(2, np.uint32), np.arange(3))
    both = threefry.fold_in(keys[:, None], np.arange(4))
    assert both.shape == (3, 4, 2) and threefry.uniform(both, 5).shape == (3, 4, 5)
    np.testing.assert_array_equal(both[2, 3], threefry.fold_in(keys[2], 3))


@pytest.mark.fast
def test_another_generator_is_refused():
    threefry.check()
    with jax.default_prng_impl("rbg"), pytest.raises(UserError, match="jax_default_prng_impl"):
        threefry.check()
