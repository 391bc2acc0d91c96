"""The batch of an update: which rows, laid over the devices, and what the method sees of them."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist, streams
from ssl_jax.augment.render import render_views
from ssl_jax.augment.targets import Field, draw_targets
from ssl_jax.augment.view import View
from ssl_jax.data import cutter, loader, samplers
from ssl_jax.methods.contract import Batch
from ssl_jax.run import Run

Rows = Any  # int32 [micro-batches, n, ...], or such an array by the name of each part


def views_of(views: Mapping[str, View], part: str) -> dict[str, View]:
    """The views of one part of a batch: those of all parts, and those that are named `part/name`.

    A batch of one unnamed part has all views, whatever they are called.
    """
    if not part:
        return dict(views)
    own = {name.removeprefix(f"{part}/"): view for name, view in views.items() if name.startswith(f"{part}/")}
    return {name: view for name, view in views.items() if "/" not in name} | own


def targets_of(targets: Mapping[str, Field], part: str) -> dict[str, Field]:
    """The targets of one part of a batch, named as the views are; `like` is a name within the part."""
    return {
        name.removeprefix(f"{part}/"): dataclasses.replace(field, like=field.like.removeprefix(f"{part}/"))
        for name, field in targets.items()
        if not part or "/" not in name or name.startswith(f"{part}/")
    }


def maker(run: Run) -> Callable[[jax.Array, jax.Array, Rows, Any], tuple[Batch, jax.Array]]:
    """What a replica makes of its rows of a micro-batch.

    Args:
      run: from `prepare`.

    Returns:
      a function `(update's key, number of the micro-batch, rows [n, ...] of each part, given) -> (batch, key of the
      loss)`. `given` is the data set as `loader.on_devices` lays it, or what a stream gives for those rows.
    """
    views, targets, parts = run.method.views(), run.method.targets(), run.sampler.parts
    shapes = {name: values.shape[1:] for name, values in loader.resident_fields(run.train).items()}

    def part_of(name: str, rng: jax.Array, number: jax.Array, rows: jax.Array, given: dict[str, Any]) -> Batch:
        first = number * (parts[name][0] // run.config.accumulate) + dist.positions(len(rows))
        position = _spread(first, rows.shape[1:])
        own = {key: x for key, x in given.items() if key != "image"}
        if run.train.streamed:
            images = given["image"]
        else:
            images = loader.take(given["image"], rows, run.train.image_shape)
            own = {key: loader.take(x, rows, shapes.get(key, ())) for key, x in own.items()}
        images = jax.tree.map(dist.split_batch, images)
        seen = views_of(views, name)
        batch = own | render_views(seen, rng, position, images)
        batch |= draw_targets(targets_of(targets, name), seen, rng, position, run.train.image_shape[:2], own)
        return batch | {"index": rows, "position": position}

    def make(rng: jax.Array, number: jax.Array, rows: Rows, given: Any) -> tuple[Batch, jax.Array]:
        key = jax.random.fold_in(jax.random.fold_in(rng, streams.loss(views)), number)
        if "" in parts:
            return part_of("", rng, number, rows, given), key
        batch: Batch = {}
        for name in parts:
            own = given[name] if run.train.streamed else given
            # A position is counted inside a part, and no two parts share a key.
            batch[name] = part_of(name, jax.random.fold_in(rng, streams.part(parts, name)), number, rows[name], own)
        return batch, key

    return make


def _spread(first: jax.Array, trailing: tuple[int, ...]) -> jax.Array:
    """Positions [n, ...] of what belongs to entries at `first` [n]: numbered one after the other."""
    count = math.prod(trailing)
    return (first[:, None] * count + jnp.arange(count)).reshape(len(first), *trailing) if trailing else first


def rows_of(run: Run, step: int) -> Rows:
    """The rows of one update on the host, [micro-batches, n, ...] of each part."""
    drawn = samplers.single(run.sampler(run.config.seed, step))
    return samplers.each(lambda rows: rows.reshape(run.config.accumulate, -1, *rows.shape[1:]), drawn)


def index(run: Run, step: int) -> Rows:
    """The rows of one update, laid over the devices."""
    return samplers.each(lambda rows: dist.lay(rows, run.mesh, P(None, dist.AXIS)), rows_of(run, step))


def indices(run: Run, step: int, count: int) -> Rows:
    """Those of the next `count` updates, [count, micro-batches, n, ...], as `step.mapped_steps` takes them."""
    rows = [rows_of(run, step + number) for number in range(count)]
    return jax.tree.map(lambda *rows: dist.lay(np.stack(rows), run.mesh, P(None, None, dist.AXIS)), *rows)


def make_loader(run: Run, start: int) -> loader.Loader:
    """The data loader, from update `start` on."""
    if not run.train.streamed:

        def rows(step: int, count: int) -> Rows:
            return index(run, step) if count == 1 else indices(run, step, count)

        return loader.Resident(run.train, run.mesh, rows, start)
    key = np.asarray(jax.random.key_data(jax.random.key(run.config.seed)))
    seed, stop = run.config.seed, run.info.total_steps
    plans = {
        name: cutter.Training(
            run.sampler, name, streams.part(run.sampler.parts, name) if name else None, seed, key, start, stop
        )
        for name in run.sampler.parts
    }
    views = {name: views_of(run.method.views(), name) for name in plans}
    many = loader.workers(run.config.data.workers)
    return loader.Streamed(run.train, views, plans, run.sampler.parts, run.mesh, run.config.accumulate, many)


def example(run: Run, step: int, most: int) -> tuple[np.ndarray, Batch]:
    """The first images of an update and what the method saw of them, outside the step: for tests and the report.

    Args:
      run: from `prepare`.
      step: updates done before it.
      most: entries of each part.

    Returns:
      images uint8 [n, ..., H, W, C] of the first part, and a batch as `Method.loss` takes it, of the first micro-batch.
    """
    rng = jax.random.fold_in(jax.random.key(run.config.seed), step)
    side = max(view.size for view in run.method.views().values())
    images, batches = {}, {}
    for name, drawn in run.sampler(run.config.seed, step).items():
        rows = drawn[: min(most, len(drawn) // run.config.accumulate)]
        found = run.train.pictures(rows.reshape(-1), side)
        images[name] = found.reshape(*rows.shape, *found.shape[1:])
        position = _spread(jnp.arange(len(rows)), rows.shape[1:])
        key = jax.random.fold_in(rng, streams.part(run.sampler.parts, name)) if name else rng
        views = views_of(run.method.views(), name)
        batches[name] = {key: jnp.asarray(x[rows]) for key, x in loader.resident_fields(run.train).items()}
        size, targets = images[name].shape[-3:-1], targets_of(run.method.targets(), name)
        batches[name] |= draw_targets(targets, views, key, position, size, batches[name])
        batches[name] |= jax.jit(functools.partial(render_views, views, key, position))(images[name])
        batches[name] |= {
            "index": jnp.asarray(rows),
            "position": position,
            "label": jnp.asarray(run.train.labels[rows]),
        }
    return next(iter(images.values())), samplers.single(batches)
