"""What does a training step cost beside the passes that its method cannot do without?

    python benchmarks/step_overhead.py [METHOD ...] [--batch=64] [--width=64] [--rounds=5] [--count=v5e:1x1]

The full step of `cifar10_small` with a full-width ResNet-18 (batch from the data set, augmentation, passes, loss,
moving target, optimiser, metrics, online probe) over the passes alone: every call of a backbone or head, for view,
target or patch, that the method's loss makes is made on ready numbers of that shape, with the gradients of what the
method trains. Which calls there are is read off the method's own loss. Both run in this process, in turns, and the
ratio is that of the medians. With --count nothing runs: FLOPs and bytes accessed of both are those that the compiler
counts for one chip of a TPU slice, and bytes of main memory those that `ssl_jax/plan/traffic.py` reads off the
programs.

The data set is 1,024 images of noise, so that memory banks have as many rows. The preset has no multi-crop, and MAE
keeps its small transformer, which costs less, so that the rest of the step weighs more.
"""

import argparse
from collections.abc import Callable
import dataclasses
import pathlib
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import record

from ssl_jax import data, dist
from ssl_jax.augment.render import render_views
from ssl_jax.batch import index as batch_index
from ssl_jax.data import loader
from ssl_jax.epoch import begin_epoch
from ssl_jax.methods import build
from ssl_jax.plan import chips, plan, traffic
from ssl_jax.recipes import get_config
from ssl_jax.run import Run, prepare
from ssl_jax.step import mapped_step


@dataclasses.dataclass(frozen=True)
class Pass:
    """One call of a backbone or head, in shapes."""

    module: nn.Module
    function: str
    variables: Any
    inputs: Any  # (arguments, keyword arguments), arrays as shapes
    trained: tuple[int, ...]  # which parameters these are, if the loss differentiates by them; else empty


def passes(run: Run) -> list[Pass]:
    """The calls that a method's loss makes of its networks."""
    found: list[Pass] = []
    inside: list[str] = []  # what one module calls of another is part of its own call

    def loss(params, state, batch):
        trained = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(params))}

        def record(call, arguments, keywords, context):
            if context.module.scope is None:  # a module that is not applied but asked something
                return call(*arguments, **keywords)
            if not inside:
                variables = context.module.variables
                numbers = tuple(trained.get(id(leaf), -1) for leaf in jax.tree.leaves(variables.get("params", {})))
                module = context.module.clone(parent=None)
                shapes = jax.tree.map(_shape, (variables, (arguments, keywords)))
                known = min(numbers, default=-1) >= 0
                found.append(Pass(module, context.method_name, shapes[0], shapes[1], numbers if known else ()))
            inside.append(context.method_name)
            out = call(*arguments, **keywords)
            inside.pop()
            return out

        with nn.intercept_methods(record):
            value, _ = run.method.loss(params, state, batch, rng=jax.random.key(0), step=jnp.int32(0), info=run.info)
        return dist.mean(value)

    def batch(images, number):
        return render_views(run.method.views(), jax.random.key(0), number, images) | {
            "index": number,
            "position": number,
            "label": number,
        }

    rows = run.config.batch_size
    images = jax.ShapeDtypeStruct((rows, *run.train.image_shape), jnp.uint8)
    ready = jax.eval_shape(batch, images, jax.ShapeDtypeStruct((rows,), jnp.int32))
    specs = (P(), run.method.specs(), P(dist.AXIS))
    jax.eval_shape(dist.map_replicas(loss, run.mesh, specs, P()), run.shapes.params, run.shapes.state, ready)
    return found


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array | np.ndarray) else x


def _is_shape(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def _own(call: Pass, name: str) -> bool:
    """Whether these variables are parameters that the loss differentiates by."""
    return name == "params" and bool(call.trained)


def _reached(call: Pass, x: Any) -> bool:
    """Whether gradients flow into an input: into floats but for images, by which no method differentiates."""
    image = len(x.shape) == 4 and x.shape[-1] <= 6
    return bool(call.trained) and jnp.issubdtype(x.dtype, jnp.floating) and not image


def bare_step(run: Run) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Gradients of all passes of the method on ready numbers, and the shapes of what that takes.

    Returns:
      function of (trained, constant), and both as shapes: lists of arrays.
    """
    calls = passes(run)
    used = sorted({number for call in calls for number in call.trained})
    weights = jax.tree.leaves(run.shapes.params)
    trained, constant = [weights[number] for number in used], []
    for call in calls:
        constant += [x for name, part in call.variables.items() if not _own(call, name) for x in jax.tree.leaves(part)]
        for x in filter(_is_shape, jax.tree.leaves(call.inputs)):
            (trained if _reached(call, x) else constant).append(x)

    def total(trained, constant):
        by_number = dict(zip(used, trained, strict=False))
        given, fixed = iter(trained[len(used) :]), iter(constant)
        value, moved = jnp.zeros(()), []
        for call in calls:
            variables = {
                name: jax.tree.unflatten(jax.tree.structure(part), [by_number[number] for number in call.trained])
                if _own(call, name)
                else jax.tree.map(lambda _: next(fixed), part)
                for name, part in call.variables.items()
            }
            ready = lambda x, call=call: next(given if _reached(call, x) else fixed) if _is_shape(x) else x  # noqa: E731
            arguments, keywords = jax.tree.map(ready, call.inputs)
            keywords |= {"method": call.function, "mutable": ["batch_stats"]}
            out, stats = call.module.apply(variables, *arguments, **keywords)
            floats = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]
            for x in floats if call.trained else jax.lax.stop_gradient(floats):
                value += jnp.mean(x.astype(jnp.float32) * x[::-1])
            moved.append(stats)
        return dist.mean(value), moved

    step = dist.map_replicas(jax.value_and_grad(total, has_aux=True), run.mesh, (P(), P()), ((P(), P()), P()))
    return jax.jit(step), (trained, constant)


def numbers(shapes: Any, seed: int) -> Any:
    """Arrays of given shapes: small positive floats, zeros of whole numbers, keys."""

    def make(number: int, x: Any) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(key, x.shape)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return 0.05 * jax.random.uniform(key, x.shape, x.dtype, 0.5, 1.5)
        return jnp.zeros(x.shape, x.dtype)

    leaves, structure = jax.tree.flatten(shapes)
    return jax.tree.unflatten(structure, [make(*pair) for pair in enumerate(leaves)])


def prepared(
    method: str, batch: int, width: int, devices: list[jax.Device] | None = None, dtype: str = "float32"
) -> Run:
    """The method's `cifar10_small` at full width, on noise in the shape of CIFAR-10: speed does not depend on it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1024, 32, 32, 3), np.uint8)
    noise = data.Dataset("noise", images, rng.integers(0, 10, 1024, np.int32), tuple("0123456789"))
    config = get_config(method, "cifar10_small")
    config.batch_size, config.model.width, config.model.dtype = batch, width, dtype
    return prepare(config, devices, (noise, None))


def timed(run: Run, rounds: int) -> tuple[float, float]:
    """Median seconds of the full step and of the bare one."""
    full, (bare, shapes) = mapped_step(run), bare_step(run)
    resident = loader.on_devices(run.train, run.mesh)
    ts = begin_epoch(run)(run.init(), resident["image"], 0)
    inputs = numbers(shapes, 0)
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        index = batch_index(run, number)
        began = time.perf_counter()
        ts, metrics = full(ts, resident, index)
        jax.block_until_ready((ts, metrics))
        middle = time.perf_counter()
        jax.block_until_ready(bare(*inputs))
        if number:  # the first round compiles
            times.append((middle - began, time.perf_counter() - middle))
    full_times, bare_times = zip(*times, strict=True)
    return statistics.median(full_times), statistics.median(bare_times)


def programs(run: Run) -> tuple[Any, Any]:
    """The full step and the bare one, compiled for the run's devices, which need not exist."""
    step: Any = mapped_step(run)
    bare: Any
    bare, shapes = bare_step(run)
    full = step.trace(*plan.arguments(run)).lower().compile()
    return full, bare.trace(*dist.shapes(shapes, P(), run.mesh)).lower().compile()


def counted(run: Run) -> list[tuple[float, float]]:
    """10^9 FLOPs, 10^6 bytes accessed and of main memory, each of the full step and of the bare one."""
    found = []
    for compiled in programs(run):
        costs, moved = compiled.cost_analysis(), traffic.main_memory(compiled.as_text())
        found.append((costs["flops"] / 1e9, costs["bytes accessed"] / 1e6, moved / 1e6))
    return list(zip(*found, strict=True))


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage of the ResNet-18")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each kind")
    parser.add_argument("--count", metavar="TOPOLOGY", help="count for one chip, such as v5e:1x1, instead of timing")
    args = parser.parse_args()
    devices = chips.find_devices(args.count)[:1] if args.count else jax.devices()[:1]
    found = {}
    print(record.told())
    print(
        f"ResNet-18 of width {args.width}, batch {args.batch}, 32 px, jax {jax.__version__}, {devices[0].device_kind}\n"
    )
    kinds = ["GFLOP", "MB", "MB of main memory"] if args.count else ["s"]
    head = [cell for kind in kinds for cell in (f"full, {kind}", f"bare, {kind}", "ratio")]
    print(f"| method | {' | '.join(head)} |\n|{' --- |' * (len(head) + 1)}", flush=True)
    for method in args.methods or build.names():
        run = prepared(method, args.batch, args.width, devices)
        pairs = counted(run) if args.count else [timed(run, args.rounds)]
        cells = [f"{full:.3f} | {bare:.3f} | {full / bare:.3f}" for full, bare in pairs]
        print(f"| {method} | {' | '.join(cells)} |", flush=True)
        found[method] = {kind: [round(x, 4) for x in pair] for kind, pair in zip(kinds, pairs, strict=True)}
    record.add(found, batch=args.batch, width=args.width, device=args.count or "this machine", order=["full", "bare"])


if __name__ == "__main__":
    main()
