"""What the head of shuffle and learn reads of three frames."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.methods.video.shuffle_and_learn import ShuffleAndLearn
from ssl_jax.models.convnet import ConvNet
from ssl_jax.runtime.errors import UserError


@pytest.mark.fast
def test_differences_are_of_each_two_features():
    three = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)))
    first, middle, last = jnp.moveaxis(three, 1, 0)
    method = ShuffleAndLearn(ConvNet(4), fusion="differences")
    wanted = jnp.abs(jnp.concatenate([first - middle, middle - last, last - first], -1))
    np.testing.assert_allclose(method._fused(three), wanted)
    np.testing.assert_allclose(method._fused(three + 3), wanted, atol=1e-6)  # nothing of the scene itself
    np.testing.assert_array_equal(ShuffleAndLearn(ConvNet(4))._fused(three), three.reshape(2, 12))


@pytest.mark.fast
def test_another_fusion_is_refused():
    with pytest.raises(UserError, match=r"config\.method\.fusion is 'sum': use"):
        ShuffleAndLearn(ConvNet(4), fusion="sum").check(32, 32, 3)
