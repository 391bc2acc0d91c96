"""A method's step must not grow unnoticed: its FLOPs, as the compiler counts them before it optimises.

`python tests/test_flops.py` records the figures anew, in flops.json, after a change that is meant to cost something.
"""

import json
import pathlib

import jax
import pytest
import tiny

from ssl_jax import methods, plan, train

RECORD = pathlib.Path(__file__).with_name("flops.json")
VERSION = ".".join(jax.__version__.split(".")[:2])


def flops(name: str) -> float:
    """Of one step on 16 images of the preset that needs no download, per image."""
    run = tiny.run(name)
    step = train.mapped_step(run)
    return step.lower(*plan.arguments(run)).cost_analysis()["flops"] / tiny.BATCH


@pytest.mark.parametrize("name", methods.names())
def test_a_step_costs_what_it_did(name):
    recorded = json.loads(RECORD.read_text())
    if recorded["jax"] != VERSION:
        pytest.skip(f"recorded with jax {recorded['jax']}, which counts otherwise than {VERSION}")
    if name not in recorded["flops"]:
        pytest.skip("not recorded yet: run `python tests/test_flops.py`")
    assert flops(name) <= 1.03 * recorded["flops"][name]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    found = {name: round(flops(name)) for name in methods.names()}
    RECORD.write_text(json.dumps({"jax": VERSION, "flops": found}, indent=2) + "\n")
