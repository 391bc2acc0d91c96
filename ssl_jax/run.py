"""A config becomes a run: data, method, sampler, optimiser and the state to start from."""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from ssl_jax import channels, data, dist, limits, mesh, models, optim, probe, streams
from ssl_jax.augment.view import View
from ssl_jax.data import cutter, loader, record, samplers, train_test
from ssl_jax.data.samplers import Sampler
from ssl_jax.methods import build
from ssl_jax.methods.contract import Info, Method, Variables
from ssl_jax.models.parts import starting_from
from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.state import TrainState, specs


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config amounts to: everything that the loop and the evaluation share."""

    config: Any
    train: data.Dataset
    test: data.Dataset | None
    method: Method
    mesh: Mesh
    info: Info
    sampler: Sampler
    optimizer: optax.GradientTransformation
    schedules: dict[str, optim.Schedule]
    init: Callable[..., TrainState]  # of nothing, or of the variables that the backbone starts from
    record: dict[str, Any] | None = None  # `images`, where it is known already

    @property
    def eval_view(self) -> View:
        """How evaluation sees an image."""
        return self.method.eval_view(self.config.data.eval_centre)

    @property
    def eval_side(self) -> int:
        """Side in pixels of the square that evaluation cuts its view from."""
        return round(self.eval_view.size / self.config.data.eval_centre)

    @property
    def images_per_update(self) -> int:
        """Images that an update sees, views not counted: those of all episodes or clips of its batch."""
        return sum(math.prod(shape) for shape in self.sampler.parts.values())

    @functools.cached_property
    def images(self) -> dict[str, Any]:
        """What tells the training images from others; see `data/record.py`."""
        return self.record or record.record(self.train)

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Shapes, types and layout of what `init` makes, without compiling or computing it."""
        made = jax.eval_shape(self.init)
        return jax.tree.map(lambda x, laid: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=laid), made, self.layout)

    @functools.cached_property
    def layout(self) -> TrainState:
        """Shardings of the training state."""
        return mesh.layout(jax.eval_shape(self.init), specs(self.method), self.mesh)


def prepare(
    config: Any,
    devices: list[jax.Device] | None = None,
    splits: tuple[data.Dataset, data.Dataset | None] | None = None,
) -> Run:
    """Loads the data and builds the method, sampler, optimiser and initialiser of a config.

    Args:
      config: as `ssl_jax/recipes/base.py` describes.
      devices: to train on; default all.
      splits: training and test data instead of those that the config names.

    Raises:
      UserError: for anything in the config that cannot be.
    """
    limits.check(config)
    config = channels.completed(config, splits and splits[0])

    def parts(c: Any) -> tuple[Mesh, Method]:
        return mesh.make(c.mesh, devices), build.method(c.method, models.from_config(c.model))

    _, method = limits.explained(config, parts)
    train, test = splits or train_test.load(config.data)
    config = _with_range(config, train)
    train, test = _as_views_see(train, method), None if test is None else _as_views_see(test, method)
    seen = _check_same(train)

    def whole(c: Any) -> Run:
        devices_mesh, method = parts(c)
        method.check(*train.image_shape)
        _check_config(c, method, train, devices_mesh)
        return _built(c, method, devices_mesh, train, test)

    return dataclasses.replace(limits.explained(config, whole), record=seen)


def _with_range(config: Any, train: data.Dataset) -> Any:
    """The config with the range that pixels deeper than bytes were found to have, for other images to come."""
    if train.span is None or config.data.get("range") is not None:
        return config
    config = config.copy_and_resolve_references()
    config.data.range = train.span
    return config


def _as_views_see(d: data.Dataset, method: Method) -> data.Dataset:
    """Grey images as colour ones where the views normalise three channels, as streamed images always are."""
    wanted = max((len(view.mean) for view in method.views().values()), default=1)
    if d.streamed or d.image_shape[-1] != 1 or wanted != 3 or "colour" in method.needs:
        return d
    return dataclasses.replace(d, images=np.repeat(d.images, 3, axis=-1))


def _built(config: Any, method: Method, devices_mesh: Mesh, train: data.Dataset, test: data.Dataset | None) -> Run:
    """The run of a config whose parts fit together."""
    info, sampler = _sampled(config, method, train, devices_mesh)
    depth = train.image_shape[-1]
    shapes = jax.eval_shape(lambda: _init_method(method, config, depth, info))
    labels = method.groups(shapes[0])
    optimizer, schedules = optim.build(config.optim, labels, config.batch_size, info.steps_per_epoch, info.total_steps)

    def init(given: Variables | None = None) -> TrainState:
        with starting_from(given):
            params, state = _init_method(method, config, depth, info)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.key_data(jax.random.key(config.seed)),
            params=params,
            state=state,
            opt_state=optimizer.init(params),
            probe=probe.init(config, method, params, state, train),
        )

    # One compiled function for the whole state, so that no two leaves share a buffer (donation would fail).
    # It runs once, and on a CPU optimising it takes most of the time (SimCLR's `cifar10_small`: 7.2 s, not 2.3).
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if devices_mesh.devices.flat[0].platform == "cpu" else None
    compiled = jax.jit(
        init, out_shardings=mesh.layout(jax.eval_shape(init), specs(method), devices_mesh), compiler_options=options
    )
    return Run(config, train, test, method, devices_mesh, info, sampler, optimizer, schedules, compiled)


def _check_config(config: Any, method: Method, train: data.Dataset, devices_mesh: Mesh) -> None:
    """Refuses settings of the step that the method, the data or the devices cannot have."""
    if config.mapping == "pmap" and dist.FSDP in devices_mesh.axis_names:
        raise UserError("config.mapping is 'pmap', which cannot shard parameters (config.mesh.fsdp): use shard_map.")
    if config.accumulate_loss not in ("micro", "whole"):
        raise UserError(f"config.accumulate_loss is '{config.accumulate_loss}': use 'micro' or 'whole'.")
    if config.accumulate_loss == "whole" and type(method).embed is Method.embed:
        raise UserError(
            f"config.accumulate_loss='whole' is for losses that compare embeddings, and {config.method.name} has no "
            "`embed`: use 'micro'."
        )
    limits.check_comparison(config, method)
    limits.check_classes(config, train)
    _check_targets(config, method, train)
    if train.streamed:
        cutter.check(method.views(), config.data.size)
        if config.run.steps_per_call > 1:
            raise UserError(
                f"config.run.steps_per_call is {config.run.steps_per_call}, which is for data that lives on the "
                "devices, and this is streamed: set it to 1."
            )


def _check_targets(config: Any, method: Method, train: data.Dataset) -> None:
    """Refuses data that lacks what the method draws beside the images."""
    fields, name = loader.resident_fields(train), config.method.name
    for field in method.targets().values():
        if field.name not in fields:
            raise UserError(
                f"config.method.name is '{name}', which wants the field '{field.name}', but the images of "
                f"{config.data.source} have {sorted(fields) or 'no fields'}: use another source, or another method."
            )
        if train.streamed and config.data.size is None:
            raise UserError(
                f"config.method.name is '{name}', whose '{field.name}' is cut as the images are: set "
                "--config.data.size, so that all are of one size."
            )
        shape = fields[field.name].shape[1:]
        if field.kind != "boxes" and shape[:2] != train.image_shape[:2]:
            raise UserError(
                f"The field '{field.name}' of {config.data.source} is {shape[:2]} and its images are "
                f"{train.image_shape[:2]}: give both the same height and width."
            )


def _sampled(config: Any, method: Method, train: data.Dataset, devices_mesh: Mesh) -> tuple[Info, Sampler]:
    """What a method may know of the run, and which rows make its batches."""
    count, batch, devices = len(train.images), config.batch_size, devices_mesh.devices.size
    if batch > count:
        raise UserError(
            f"config.batch_size is {batch}, more than the {count} training images of {config.data.source}: lower it."
        )
    if batch % (devices * config.accumulate):
        raise UserError(
            f"config.batch_size is {batch}, which does not divide over {devices} device(s) times "
            f"{config.accumulate} micro-batch(es): make it a multiple of {devices * config.accumulate}."
        )
    steps = count // batch
    known = config.data.get("target_labels", 0)  # a run of an earlier version has no such field
    info = Info(count, batch, steps, steps * config.epochs, len(train.classes), known)
    sampler = method.sampler(train, info)
    samplers.check(sampler, count, devices * config.accumulate)
    steps = sampler.steps_per_epoch
    return dataclasses.replace(info, steps_per_epoch=steps, total_steps=steps * config.epochs), sampler


def _check_same(d: data.Dataset) -> dict[str, Any] | None:
    """Refuses data that another process sees otherwise: its weights would stay the same, so that nobody would notice.

    Returns:
      the images' record; None where there is one process, which needs none yet.

    Raises:
      UserError: on all processes.
    """
    if jax.process_count() == 1:
        return None
    found = record.record(d)
    digest = hashlib.sha256(json.dumps(found).encode())
    if not d.streamed:  # what was decoded may come from a cache that is not what the files are
        digest.update(np.ascontiguousarray(d.images).data)
    if not processes.all_have(digest.digest()[:8]):
        raise UserError(
            f"The processes of this run do not see the same training images of {d.name} ({len(d.images)} here): make "
            "the files the same on all machines, and empty their caches of decoded images."
        )
    return found


def _init_method(method: Method, config: Any, depth: int, info: Info) -> tuple[Any, Any]:
    # Only shapes matter; rendering real views would double the time to compile the initialisation.
    batch = {name: jnp.zeros((2, v.size, v.size, depth)) for name, v in method.views().items()}
    return method.init(jax.random.fold_in(jax.random.key(config.seed), streams.WEIGHTS), batch, info)
