"""Compiles the training step of a config and reads off what it needs."""

import dataclasses
import logging
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import batch, data, dist
from ssl_jax.data import lazy, loader, samplers, train_test
from ssl_jax.plan import hlo, traffic
from ssl_jax.plan.chips import CHIPS, GIB, find_devices
from ssl_jax.run import Run, prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

logger = logging.getLogger("ssl_jax")


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
    held: float  # of them parameters, state and optimiser, between steps
    held_whole: float  # that would be without fsdp
    flops: float
    bytes: float  # accessed, as the compiler counts them: also in the chip's own memory, and of a loop one turn
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
        held=held(run, dist.FSDP),
        held_whole=held(run),
        flops=(analysis.get("flops", math.nan) + hlo.loop_flops(text)) * counted,
        bytes=analysis.get("bytes accessed", math.nan) * counted,
        main_memory=_main_memory(text, analysis) * counted,
        collectives={name: (n * counted, size * counted) for name, (n, size) in hlo.collectives(text).items()},
        compile_seconds=seconds,
        steps=run.info.total_steps,
    )


def held(run: Run, *axes: str) -> float:
    """Bytes of parameters, state and optimiser on a chip, split over the data axis and `axes` of the mesh."""
    split = (dist.AXIS, *axes)

    def size(x: jax.ShapeDtypeStruct) -> float:
        spec = x.sharding.spec  # type: ignore[union-attr]
        names = [name for entry in spec for name in (entry if isinstance(entry, tuple) else (entry,))]
        parts = math.prod(run.mesh.shape[name] for name in names if name in split)
        return x.size * x.dtype.itemsize / parts

    return sum(size(x) for x in jax.tree.leaves(run.shapes))


def _main_memory(text: str, analysis: dict[str, float]) -> float:
    """Bytes of main memory; for a program that cannot be read, those that the compiler counts of all memories."""
    accessed = analysis.get("bytes accessed", math.nan)
    try:
        return traffic.main_memory(text) if text else accessed
    except (KeyError, IndexError, ValueError, RuntimeError) as error:  # the compilation has taken minutes
        logger.warning("Main memory's traffic cannot be read off this program (%r): all memories' is shown.", error)
        return accessed


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
    fits = height > 0 and (config.data.stream == "never" or math.prod(shape) <= config.data.max_gib * GIB)
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
        given = {"image": stored, "label": run.train.labels} | _fields(run)
        return run.shapes, dist.shapes(given, P(), run.mesh), index
    channels = run.train.image_shape[-1]
    parts = {}
    for name, shape in shapes.items():
        crops = {
            key: jax.ShapeDtypeStruct((*shape, view.size, view.size, channels), jnp.uint8)
            for key, view in batch.views_of(run.method.views(), name).items()
        }
        parts[name] = {"image": crops, "label": numbers[name]}
    return run.shapes, dist.shapes(samplers.single(parts), split, run.mesh), index


def _fields(run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of the data set that the method sees beside its views, as they lie on the devices."""
    wanted = {field.name for field in run.method.targets().values()} | {"clip", "pose"}
    found = {name: x for name, x in loader.resident_fields(run.train).items() if name in wanted}
    return {name: jax.ShapeDtypeStruct((len(x), math.prod(x.shape[1:])), x.dtype) for name, x in found.items()}
