"""What benchmarks/step_overhead.py divides by: the passes of a method, read off its loss."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import step_overhead

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("method", "trained", "constant"),
    [
        ("simclr", ["ConvNet", "MLP"], []),
        ("byol", ["ConvNet", "MLP", "MLP"] * 2, ["ConvNet", "MLP"] * 2),
        ("rotation", ["ConvNet", "Classifier"], []),
    ],
)
def test_passes_are_those_of_the_definition(method, trained, constant):
    calls = step_overhead.passes(tiny.run(method))
    for names, wanted in ((trained, True), (constant, False)):
        assert sorted(names) == sorted(type(call.module).__name__ for call in calls if bool(call.trained) == wanted)


def test_the_bare_step_differentiates_all_that_the_method_trains():
    run = tiny.run("simclr")
    step, shapes = step_overhead.bare_step(run)
    weights = len(jax.tree.leaves(run.shapes.params))
    _, grads = step(*step_overhead.numbers(shapes, 0))
    assert len(grads) == weights + 1  # and by what goes into the head
    assert all(jnp.isfinite(g).all() for g in grads)
    assert np.mean([bool(jnp.any(g != 0)) for g in grads]) > 0.5
