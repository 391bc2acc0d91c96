"""A method's step must not grow unnoticed: its FLOPs, as the compiler counts them before it optimises.

`python tests/test_flops.py` records the figures anew, in flops.json, after a change that is meant to cost something.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssl_jax.methods import build
from ssl_jax.models import conv_cpu, conv_winograd
from ssl_jax.plan import plan
from ssl_jax.step import mapped_step

RECORD = pathlib.Path(__file__).with_name("flops.json")
VERSION = ".".join(jax.__version__.split(".")[:2])


# A backbone that no preset of the suite has: its bottlenecks, and BatchNorm as a part of their kernels.
DEEP = {"simclr of a ResNet-50": ("simclr", {"model.name": "resnet50", "model.stem": "imagenet"})}
# maml: one task after the other, and the inner loop, of a number of turns that is known; nat: its assignment, in every
# third epoch; watching_objects_move: the camera's shifts, a known number, and regions that grow until they are whole;
# dinov3: the Gram loss, which is computed only where it counts.
LOOPS = {"dinov3", "maml", "nat", "watching_objects_move"}
STEPS = {name: (name, {}) for name in build.names()} | DEEP


def lowered(name: str, **changes):
    """The step on 16 images of the preset that needs no download, before the compiler's own work: here, on a GPU."""
    run = tiny.run(name, **changes)
    with pytest.MonkeyPatch.context() as patch:
        # Of a loop the compiler counts one turn, whatever the number: those of convolutions have but one here.
        patch.setattr(conv_cpu, "_block_size", lambda n, size: n)
        patch.setattr(conv_winograd, "_images", lambda n, tiles, rows: n)
        patch.setattr(conv_winograd, "_few", lambda tiles, c, k: False)
        traced = mapped_step(run).trace(*plan.arguments(run))
        return traced.lower(), traced.lower(lowering_platforms=("cuda",))


def flops(step) -> float:
    """Per image."""
    return step.cost_analysis()["flops"] / tiny.BATCH


def talks(step) -> bool:
    """Whether a program asks the host for something, or tells it, before it is done.

    A GPU also asks before each turn of a loop until something is so, and before a branch by a value of its own; of a
    loop with a number of turns (`lax.scan`), which looks alike here, no step on a GPU has any.
    """
    return any(map(_talks, _operations(step.compiler_ir("stablehlo").operation)))


def _operations(outer):
    for region in outer.regions:
        for block in region:
            for operation in block:
                yield operation.operation
                yield from _operations(operation)


def _talks(operation) -> bool:
    if operation.name == "stablehlo.case":
        # By platform, of which there is one: by a constant, also handed to a function, or no choice at all.
        chooser = getattr(operation.operands[0].owner, "name", "argument")
        return len(operation.regions) > 1 and chooser not in ("stablehlo.constant", "argument")
    if operation.name == "stablehlo.custom_call":
        return "callback" in str(operation.attributes["call_target_name"])
    return operation.name in {f"stablehlo.{name}" for name in ("while", "if", "infeed", "outfeed", "send", "recv")}


def chatty(x):
    jax.debug.callback(print, x)
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x)


@pytest.mark.parametrize(
    ("function", "platform", "heard"),
    [
        (chatty, "cpu", True),  # JAX lowers callbacks for what is there only
        (lambda x: jax.lax.while_loop(lambda x: x < 5, lambda x: 2 * x, x), "cuda", True),
        (lambda x: jax.lax.cond(x < 5, jnp.sin, jnp.cos, x), "cuda", True),
        (lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos), "cuda", False),
        (jnp.sin, "cuda", False),
    ],
    ids=["callback", "loop", "branch", "platform", "none"],
)
def test_a_program_that_talks_to_the_host_is_found_out(function, platform, heard):
    assert talks(jax.jit(function).trace(1.0).lower(lowering_platforms=(platform,))) == heard


@pytest.mark.parametrize("name", STEPS)
def test_a_step_costs_what_it_did_and_keeps_to_the_device(name):
    method, changes = STEPS[name]
    step, on_gpu = lowered(method, **changes)
    assert method in LOOPS or not talks(on_gpu)
    recorded = json.loads(RECORD.read_text())
    if recorded["jax"] != VERSION:
        pytest.skip(f"recorded with jax {recorded['jax']}, which counts otherwise than {VERSION}")
    if name not in recorded["flops"]:
        pytest.skip("not recorded yet: run `python tests/test_flops.py`")
    # What became cheaper is recorded anew, or the old cost could come back unnoticed.
    assert 0.97 < flops(step) / recorded["flops"][name] <= 1.03, "if that is meant, run `python tests/test_flops.py`"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    found = {name: round(flops(lowered(method, **changes)[0])) for name, (method, changes) in STEPS.items()}
    RECORD.write_text(json.dumps({"jax": VERSION, "flops": found}, indent=2) + "\n")
