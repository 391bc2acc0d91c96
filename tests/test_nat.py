"""NAT: its assignment, its loss, and that targets stay a permutation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
import tiny

from ssl_jax.methods.pretext import nat

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_assignment_costs_what_scipys_does():
    """1,000 random matrices of cosines; another permutation only where rounding makes it as cheap."""
    draw = np.random.default_rng(0)
    x, y = (draw.normal(size=(1000, 32, 16)).astype(np.float32) for _ in range(2))
    x, y = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (x, y))
    costs = -np.einsum("nik,njk->nij", x, y)
    found = np.asarray(jax.jit(lambda costs: jax.lax.map(nat.assignment, costs))(costs))
    rows = np.arange(32)
    for cost, columns in zip(costs, found, strict=True):
        np.testing.assert_array_equal(np.sort(columns), rows)
        wanted = cost[linear_sum_assignment(cost)].sum()
        assert cost[rows, columns].sum() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("cost", ["equal", "huge", "one"])
def test_the_assignment_of_odd_costs(cost):
    costs = {"equal": np.ones((5, 5)), "huge": 1e6 * np.eye(4), "one": np.ones((1, 1))}[cost]
    found = np.asarray(nat.assignment(jnp.asarray(costs, jnp.float32)))
    np.testing.assert_array_equal(np.sort(found), np.arange(len(costs)))
    assert costs[np.arange(len(costs)), found].sum() == costs[linear_sum_assignment(costs)].sum()


@pytest.mark.fast
def test_the_loss_has_the_reference_value(golden):
    with np.load(golden.parent / "golden_wave2" / "nat_assignment.npz") as file, jax.enable_x64(True):
        z, targets = (jnp.asarray(file[name]) for name in ("features", "targets"))
        found = nat.assignment(-z @ targets.T)
        np.testing.assert_array_equal(found, file["assignment"])
        np.testing.assert_allclose(nat.squared_distance(z, targets[found]), file["loss_per_image"], rtol=1e-9)
        np.testing.assert_allclose(nat.squared_distance(z, targets), file["loss_before"], rtol=1e-9)
        np.testing.assert_allclose(jax.grad(nat.squared_distance)(z, targets), 2 * (z - targets) / len(z), rtol=1e-9)


def test_targets_stay_a_permutation_and_move_in_every_third_epoch():
    run, _, _ = tiny.compiled("nat")
    number = run.info.steps_per_epoch
    ts, metrics = tiny.steps("nat", 3)
    count = run.info.num_examples
    np.testing.assert_array_equal(np.sort(ts.state["target"]), np.arange(count))
    assert np.sum(ts.state["target"] != np.arange(count)) > 24
    assert all(m["targets_moved"] > 0.5 for m in metrics)
    later = jax.device_get(tiny.fresh(run)).replace(step=np.int32(number))
    ts, (metrics,) = tiny.steps("nat", 1, start=later)
    np.testing.assert_array_equal(ts.state["target"], np.arange(count))
    assert metrics["targets_moved"] == 0


@pytest.mark.fast
def test_a_target_is_a_function_of_its_number():
    key = jax.random.key(3)
    whole = nat.directions(key, jnp.arange(10), 6)
    np.testing.assert_array_equal(nat.directions(key, jnp.array([7, 2]), 6), whole[jnp.array([7, 2])])
    np.testing.assert_allclose(jnp.linalg.norm(whole, axis=1), 1, rtol=1e-6)
