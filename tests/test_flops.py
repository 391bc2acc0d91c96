"""A method's step must not grow unnoticed: its FLOPs, as the compiler counts them before it optimises.

`python tests/test_flops.py` records the figures anew, in flops.json, after a change that is meant to cost something.
"""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax import methods, plan, train
from ssl_jax.models import conv

RECORD = pathlib.Path(__file__).with_name("flops.json")
VERSION = ".".join(jax.__version__.split(".")[:2])


# A backbone that no preset of the suite has: its bottlenecks, and BatchNorm as a part of their kernels.
DEEP = {"simclr of a ResNet-50": ("simclr", {"model.name": "resnet50", "model.stem": "imagenet"})}
STEPS = {name: (name, {}) for name in methods.names()} | DEEP


def lowered(name: str, **changes):
    """The step on 16 images of the preset that needs no download, before the compiler's own work."""
    run = tiny.run(name, **changes)
    with pytest.MonkeyPatch.context() as patch:
        # Of a loop the compiler counts one turn, whatever the number: the weight gradient's has but one here.
        patch.setattr(conv, "_block_size", lambda n, size: n)
        return train.mapped_step(run).lower(*plan.arguments(run))


def flops(step) -> float:
    """Per image."""
    return step.cost_analysis()["flops"] / tiny.BATCH


def talks(step) -> bool:
    """Whether a program asks the host for something, or tells it, before it is done."""
    return bool(re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)", step.as_text()))


def test_a_program_that_talks_to_the_host_is_found_out():
    def chatty(x):
        jax.debug.callback(print, x)
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x)

    assert talks(jax.jit(chatty).lower(1.0)) and not talks(jax.jit(jnp.sin).lower(1.0))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_costs_what_it_did_and_keeps_to_the_device(name):
    method, changes = STEPS[name]
    step = lowered(method, **changes)
    assert not talks(step)
    recorded = json.loads(RECORD.read_text())
    if recorded["jax"] != VERSION:
        pytest.skip(f"recorded with jax {recorded['jax']}, which counts otherwise than {VERSION}")
    if name not in recorded["flops"]:
        pytest.skip("not recorded yet: run `python tests/test_flops.py`")
    # What became cheaper is recorded anew, or the old cost could come back unnoticed.
    assert 0.97 < flops(step) / recorded["flops"][name] <= 1.03, "if that is meant, run `python tests/test_flops.py`"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    found = {name: round(flops(lowered(method, **changes))) for name, (method, changes) in STEPS.items()}
    RECORD.write_text(json.dumps({"jax": VERSION, "flops": found}, indent=2) + "\n")
