"""What happens before an epoch: the method's `on_epoch`, and the pass over all images that it may ask for."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist, streams
from ssl_jax.augment.render import render_views
from ssl_jax.augment.view import View
from ssl_jax.data import cutter, loader
from ssl_jax.run import Run
from ssl_jax.state import TrainState


def begin_epoch(run: Run, between: Callable[[], None] = lambda: None) -> Callable[[TrainState, Any, int], TrainState]:
    """What happens before the first update of an epoch: the method's `on_epoch`.

    Args:
      run: from `prepare`.
      between: called after each block of images that is embedded; may raise, to end it early.

    Returns:
      a function `(train state, images, updates done) -> train state`, images being those of `loader.Loader`.
    """
    method, info, embedded = run.method, run.info, embedder(run, between)

    def begin(ts: TrainState, images: Any, step: int) -> TrainState:
        if step % info.steps_per_epoch:
            return ts
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(ts.rng), step), streams.EPOCH)

        def embed(fn: Callable[..., jax.Array], views: Mapping[str, View] | None = None) -> jax.Array:
            return embedded(fn, ts, images, jax.random.fold_in(rng, streams.EPOCH_VIEWS), views)

        key = jax.random.fold_in(rng, streams.EPOCH_METHOD)
        state = method.on_epoch(ts.params, ts.state, rng=key, step=step, info=info, embed=embed)
        return ts if state is ts.state else dataclasses.replace(ts, state=jax.device_put(state, run.layout.state))

    return begin


def embedder(run: Run, between: Callable[[], None] = lambda: None) -> Callable[..., jax.Array]:
    """`(fn, train state, images, rng, views) -> fn(params, state, batch)` of every image, in micro-batches."""
    count, block = run.info.num_examples, run.info.batch_size // run.config.accumulate
    split = P(None, dist.AXIS)

    @functools.cache
    def compiled(fn: Callable[..., jax.Array], views: tuple[tuple[str, View], ...]) -> Callable[..., jax.Array]:
        def replica(params, state, images, rng, index):
            rows = index[0]
            crops = {name: x[0] for name, x in images.items()} if isinstance(images, dict) else None
            chosen = crops or loader.take(images, rows, run.train.image_shape)
            # The image's number stands for its position: randomness does not depend on the block.
            batch = render_views(dict(views), rng, rows, chosen)
            batch |= {"index": rows, "position": rows, "label": jnp.full(len(rows), -1)}
            return fn(params, state, batch)

        in_specs = (P(), run.method.specs(), split if run.train.streamed else P(), P(), split)
        return dist.map_replicas(replica, run.mesh, in_specs, P(dist.AXIS), mapping=run.config.mapping)

    def blocks(images: Any, views: dict[str, View], rng: jax.Array) -> Iterator[tuple[Any, jax.Array]]:
        # Either way the last block is filled up with images from the front.
        if run.train.streamed:
            plan = cutter.Pass(np.asarray(jax.random.key_data(rng)), count, block)
            many = loader.workers(run.config.data.workers)
            for crops, _, index in loader.streamed(images, run.train.labels, views, plan, run.mesh, 1, many):
                yield crops, index
        else:
            for rows in np.arange(-(-count // block) * block).reshape(-1, 1, block) % count:
                yield images, dist.lay(rows, run.mesh, split)

    def embedded(
        fn: Callable[..., jax.Array],
        ts: TrainState,
        images: Any,
        rng: jax.Array,
        views: Mapping[str, View] | None = None,
    ) -> jax.Array:
        shown = dict(run.method.views() if views is None else views)
        parts, program = [], compiled(fn, tuple(shown.items()))
        for chosen, index in blocks(images, shown, rng):
            part = program(ts.params, ts.state, chosen, rng, index)
            # One at a time: many programs in flight starve each other's collectives on simulated devices.
            parts.append(jax.block_until_ready(part))
            between()
        return jnp.concatenate(parts)[:count]

    return embedded
