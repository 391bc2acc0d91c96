"""Sizes a run before it is paid for: `python -m ssl_jax.plan --config=simclr:imagenet --topology=v5e:4x4`.

Compiles the real training step for a TPU slice that need not be there (the TPU compiler runs on any machine with the
package libtpu) and says whether it fits, what it moves and computes a view, and how long it takes at best. Several
topologies, separated by commas, make a table. `--topology=local` plans for the devices of this machine.

  --config=METHOD:PRESET              as for ssl_jax.main; --config.FIELD=VALUE changes a field
  --topology=v5e:4x4,v4:2x2x2         generation and shape of slices; or local
  --efficiency=0.7                    share of the bounding rate that is assumed to be reached
  --images=N                          training images, of a data set that is not on this machine
  --json=FILE                         appends a line a topology
"""

import dataclasses
import json
import logging
import math
import os
import pathlib
import re
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import batch, command_line, data, dist
from ssl_jax.data import lazy, samplers, train_test
from ssl_jax.plan import hlo
from ssl_jax.run import Run, prepare
from ssl_jax.runtime.errors import UserError, explained
from ssl_jax.step import mapped_step
from ssl_jax.workdir.log import speak_plainly

_TOPOLOGY = flags.DEFINE_list("topology", "local", "Slices such as v5e:4x4, separated by commas, or local.")
_EFFICIENCY = flags.DEFINE_float("efficiency", 0.7, "Share of the bounding rate that is assumed to be reached.")
_IMAGES = flags.DEFINE_integer("images", None, "Training images, of a data set that is not on this machine.")
_JSON = flags.DEFINE_string("json", None, "File to which a line a topology is appended.")
_GIB = 2**30
logger = logging.getLogger("ssl_jax")


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip, from its maker's data sheet."""

    flops: float  # a second, bfloat16 matrix products with float32 sums
    bytes: float  # a second, to and from its main memory
    link: float  # bytes a second that all its links together send to other chips
    memory: float  # bytes


# By the device kind that JAX reports. TPU: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. GPU: NVIDIA's data sheets
# (dense bfloat16). Links count one direction, half of what is called bidirectional there.
CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 300e9, 32 * _GIB),
    "TPU v5 lite": Chip(197e12, 819e9, 200e9, 16 * _GIB),
    "TPU v5": Chip(459e12, 2765e9, 600e9, 95 * _GIB),
    "TPU v6 lite": Chip(918e12, 1638e9, 400e9, 32 * _GIB),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1555e9, 300e9, 40e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 300e9, 80e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 450e9, 80e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 450e9, 141e9),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled step needs; per chip unless said otherwise."""

    topology: str
    chip: str  # kind of device
    chips: int
    batch_size: int  # images of all chips
    views: int  # of all chips, an update
    fits: bool
    memory: float  # bytes at the peak
    flops: float
    bytes: float  # accessed, as the compiler counts them: also in the chip's own memory
    main_memory: float  # bytes read from main memory and written there
    collectives: dict[str, tuple[int, float]]  # kind to how many and bytes they leave on the chip
    compile_seconds: float
    steps: int  # updates of the whole run


def plan(config: Any, topology: str, images: int | None = None) -> Plan:
    """Compiles the training step of a config for a slice and reads off what it needs.

    Where the config accumulates, the compiler counts the loop over micro-batches once; FLOPs, bytes and collectives
    are then of the program of one micro-batch times their number, and the memory of the program as it is.

    Args:
      config: as for `run.prepare`.
      topology: such as 'v5e:4x4', or 'local'.
      images: number of training images if the data set is not at hand.

    Raises:
      UserError: unknown topology or data set, libtpu missing, a batch that does not divide.
    """
    devices = find_devices(topology)
    splits = stand_in(config, images)
    run = prepare(config, devices, splits)
    begun = time.perf_counter()
    compiled, needed = _compile(run)
    seconds = time.perf_counter() - begun
    micro = config.accumulate
    costs, counted = compiled, 1
    if compiled is not None and micro > 1:
        one = config.copy_and_resolve_references()
        one.batch_size, one.accumulate = config.batch_size // micro, 1
        costs, counted = _compile(prepare(one, devices, splits))[0], micro
    analysis = costs.cost_analysis() if costs is not None else {}
    text = costs.as_text() if costs is not None else ""
    kind = devices[0].device_kind
    limit = CHIPS[kind].memory if kind in CHIPS else math.inf
    return Plan(
        topology=topology,
        chip=kind,
        chips=len(devices),
        batch_size=config.batch_size,
        views=config.batch_size * len(run.method.views()),
        fits=compiled is not None and needed <= limit,
        memory=needed,
        flops=analysis.get("flops", math.nan) * counted,
        bytes=analysis.get("bytes accessed", math.nan) * counted,
        main_memory=_main_memory(text, analysis) * counted,
        collectives={name: (n * counted, size * counted) for name, (n, size) in hlo.collectives(text).items()},
        compile_seconds=seconds,
        steps=run.info.total_steps,
    )


def _main_memory(text: str, analysis: dict[str, float]) -> float:
    """Bytes of main memory; for a program that cannot be read, those that the compiler counts of all memories."""
    accessed = analysis.get("bytes accessed", math.nan)
    try:
        return hlo.main_memory(text) if text else accessed
    except (KeyError, IndexError, ValueError, RuntimeError) as error:  # the compilation has taken minutes
        logger.warning("Main memory's traffic cannot be read off this program (%r): all memories' is shown.", error)
        return accessed


def find_devices(topology: str) -> list[jax.Device]:
    """The devices of this machine for 'local', or those of a TPU slice that need not exist.

    Raises:
      UserError: libtpu is not installed, or does not know the slice.
    """
    if topology == "local":
        return jax.devices()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this machine is no TPU VM that could be asked
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor is there a TPU that only one may hold
    from jax.experimental import topologies

    generation, _, shape = topology.partition(":")
    # Two cores of a v4 chip are one device to JAX on real machines, and slices of one chip are machines of their own.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if math.prod(int(side) for side in re.findall(r"\d+", shape)) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu", **options).devices)
    except Exception as error:  # libtpu reports both in a RuntimeError or a JaxRuntimeError
        words = " ".join(str(error).split())
        if "libtpu" in words.lower() or "unable to initialize backend" in words.lower():
            raise UserError("Planning for a TPU needs its compiler: pip install -e .[plan].") from error
        raise UserError(
            f"There is no TPU slice '{topology}' ({words[:200]}): write generation:shape, such as v5e:4x4, v4:2x2x2 "
            "or v6e:4x4."
        ) from error


def stand_in(config: Any, images: int | None) -> tuple[data.Dataset, None]:
    """A training split of the right shape without its pixels.

    Raises:
      UserError: if the data set is neither known nor on this machine, and `images` is not given.
    """
    if train_test.is_joined(config.data):
        return train_test.load(config.data)[0], None
    source, size = config.data.source, config.data.size
    card = data.card(source)
    if card.count and card.channels and card.classes is not None and (card.side or size or data.streams(source)):
        height = width = size or card.side or 0
        count, channels, classes = card.count, card.channels, card.classes
        count = min(count, config.data.per_class * classes) if config.data.per_class and classes else count
    elif images is None:
        found = train_test.load(config.data)[0]
        (height, width, channels), count, classes = found.image_shape, len(found.labels), len(found.classes)
    elif size is None:
        raise UserError("--images needs the side of the images too: set --config.data.size.")
    else:
        count, height, width, channels, classes = images, size, size, 3, 0
    shape = (images or count, height, width, channels)
    labels = (np.arange(shape[0]) % classes if classes else np.full(shape[0], -1)).astype(np.int32)
    pixels: Any = np.broadcast_to(np.uint8(0), shape)  # one pixel, seen as a whole data set
    fits = height > 0 and (config.data.stream == "never" or math.prod(shape) <= config.data.max_gib * _GIB)
    if config.data.stream == "always" or not fits:
        pixels = lazy.Images(lazy.FolderFiles("", np.empty(0, bytes)), np.broadcast_to(0, shape[:1]), size)
    return data.Dataset(source, pixels, labels, tuple(map(str, range(classes)))), None


def _compile(run: Run) -> tuple[Any, float]:
    """The compiled step and its peak of memory in bytes; no step, and what it wanted, if the compiler gave up."""
    step: Any = mapped_step(run)
    try:
        compiled = step.trace(*arguments(run)).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, wanted_memory(str(error))
    memory = compiled.memory_analysis()
    return compiled, (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def wanted_memory(message: str) -> float:
    """Bytes that a compiler which ran out of memory says it wanted; infinite if it does not say."""
    wanted = re.search(r"Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds", message)
    if not wanted:
        return math.inf
    number, unit = (group for group in wanted.groups() if group)
    return float(number) * 2.0 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit]


def arguments(run: Run) -> tuple[Any, ...]:
    """What `step.mapped_step` takes, as shapes laid over the devices of the run, which need not exist."""
    split, micro = P(None, dist.AXIS), run.config.accumulate
    shapes = {name: (micro, n // micro, *more) for name, (n, *more) in run.sampler.parts.items()}
    numbers = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    index = dist.shapes(samplers.single(numbers), split, run.mesh)
    if not run.train.streamed:
        stored = jax.ShapeDtypeStruct((run.info.num_examples, math.prod(run.train.image_shape)), jnp.uint8)
        return run.shapes, dist.shapes({"image": stored, "label": run.train.labels}, P(), run.mesh), index
    channels = run.train.image_shape[-1]
    given = {}
    for name, shape in shapes.items():
        crops = {
            key: jax.ShapeDtypeStruct((*shape, view.size, view.size, channels), jnp.uint8)
            for key, view in batch.views_of(run.method.views(), name).items()
        }
        given[name] = {"image": crops, "label": numbers[name]}
    return run.shapes, dist.shapes(samplers.single(given), split, run.mesh), index


def roofline(plan: Plan) -> dict[str, float]:
    """Seconds that arithmetic, memory and links each need for a step at their peak rates; empty for an unknown chip."""
    if plan.chip not in CHIPS:
        return {}
    chip = CHIPS[plan.chip]
    exchanged = sum(size for _, size in plan.collectives.values())
    return {
        "arithmetic": plan.flops / chip.flops,
        "memory": plan.main_memory / chip.bytes,
        "links": exchanged / chip.link,
    }


def summarise(plan: Plan, efficiency: float) -> dict[str, Any]:
    """The figures of a plan as people want them.

    Args:
      plan: from `plan`.
      efficiency: share of the bounding rate that is assumed to be reached.

    Returns:
      name to number or word; times are absent for a chip whose rates are not known, or a step that does not fit.
    """
    views_a_chip = plan.views / plan.chips
    out: dict[str, Any] = {
        "topology": plan.topology,
        "chip": plan.chip,
        "chips": plan.chips,
        "batch_size": plan.batch_size,
        "fits": plan.fits,
        "memory_gib": plan.memory / _GIB,
        "gflop_per_view": plan.flops / views_a_chip / 1e9,
        "mb_per_view": plan.bytes / views_a_chip / 1e6,
        "main_mb_per_view": plan.main_memory / views_a_chip / 1e6,
        "collectives": {kind: {"count": n, "mb": size / 1e6} for kind, (n, size) in plan.collectives.items()},
        "compile_seconds": plan.compile_seconds,
    }
    times = roofline(plan)
    if times and plan.fits:
        side = max(times, key=lambda name: times[name])
        seconds = times[side] / efficiency
        hours = seconds * plan.steps / 3600
        out |= {
            "bound_by": side,
            "bound_ms": {name: 1e3 * value for name, value in times.items()},
            "efficiency": efficiency,
            "step_ms": 1e3 * seconds,
            "views_per_second_per_chip": views_a_chip / seconds,
            "hours": hours,
            "chip_hours": hours * plan.chips,
        }
    return out


def describe(rows: list[dict[str, Any]]) -> str:
    """One topology in words, or several as a table in Markdown."""
    return _words(rows[0]) if len(rows) == 1 else table(rows)


def _words(row: dict[str, Any]) -> str:
    limit = CHIPS[row["chip"]].memory / _GIB if row["chip"] in CHIPS else None
    of = f" of {limit:.0f} GiB" if limit else ""
    lines = [
        f"{row['topology']}: {row['chips']} x {row['chip']}, {row['batch_size']} images an update "
        f"(compiled in {row['compile_seconds']:.0f} s)",
        f"  memory       {row['memory_gib']:.2f} GiB{of} at the peak: {'fits' if row['fits'] else 'does not fit'}",
    ]
    if not math.isnan(row["gflop_per_view"]):
        lines.append(
            f"  a view       {row['gflop_per_view']:.2f} GFLOP, {row['mb_per_view']:.1f} MB "
            f"accessed, {row['main_mb_per_view']:.1f} MB of main memory"
        )
    for kind, entry in row["collectives"].items():
        lines.append(f"  {kind:<12} {entry['count']} a step, {entry['mb']:.2f} MB a chip")
    if "step_ms" in row:
        bounds = ", ".join(f"{name} {ms:.2f}" for name, ms in row["bound_ms"].items())
        lines += [
            f"  at best, ms  {bounds}: bound by {row['bound_by']}",
            f"  at {row['efficiency']:.0%} of that {row['step_ms']:.2f} ms a step, "
            f"{row['views_per_second_per_chip']:.0f} views/s a chip; all epochs {row['hours']:.2f} hours, "
            f"{row['chip_hours']:.1f} chip-hours",
        ]
    elif row["fits"]:
        lines.append(f"  no time: peak rates of '{row['chip']}' are not in ssl_jax/plan.py")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Plans as a table in Markdown, a line a plan."""
    head = (
        "topology",
        "batch",
        "GiB a chip",
        "GFLOP a view",
        "MB a view",
        "of main memory",
        "collectives, MB a chip",
        "bound by",
        "views/s a chip",
        "hours",
        "chip-hours",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        exchanged = sum(entry["mb"] for entry in row["collectives"].values())
        counted = not math.isnan(row["gflop_per_view"])
        cells = [
            row["topology"],
            str(row["batch_size"]),
            f"{row['memory_gib']:.2f}" + ("" if row["fits"] else " (does not fit)"),
            f"{row['gflop_per_view']:.2f}" if counted else "",
            f"{row['mb_per_view']:.1f}" if counted else "",
            f"{row['main_mb_per_view']:.1f}" if counted else "",
            f"{exchanged:.2f}" if counted else "",
        ]
        if "step_ms" in row:
            cells += [
                row["bound_by"],
                f"{row['views_per_second_per_chip']:.0f}",
                f"{row['hours']:.2f}",
                f"{row['chip_hours']:.1f}",
            ]
        else:
            cells += [""] * 4
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@explained
def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    config = command_line.parse(argv)
    if not 0 < _EFFICIENCY.value <= 1:
        raise UserError(f"--efficiency is {_EFFICIENCY.value}: it is a share, more than 0 and at most 1.")
    if _JSON.value:
        try:
            pathlib.Path(_JSON.value).open("a").close()
        except OSError as error:
            raise UserError(
                f"--json={_JSON.value} cannot be written ({error.strerror}): choose another file."
            ) from error
    rows: list[dict[str, Any]] = []
    try:
        for topology in _TOPOLOGY.value:
            rows.append(summarise(plan(config, topology, _IMAGES.value), _EFFICIENCY.value))
            if _JSON.value:
                with pathlib.Path(_JSON.value).open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    finally:  # what was compiled for minutes is not lost by a mistake in the next one
        if rows:
            print(describe(rows))
    return 0
