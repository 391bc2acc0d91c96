"""Gradient accumulation: the gradient of a batch from its micro-batches.

A loss that compares images (`config.accumulate_loss`) can compare those of each micro-batch by themselves ("micro"), or
all of the batch ("whole"): then every image goes through the network once more, first for its embedding.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import batch, dist, probe, streams
from ssl_jax.methods.contract import flat
from ssl_jax.run import Run
from ssl_jax.state import TrainState

# Gradient, gradient of the online probe, metrics.
Found = tuple[Any, Any, dict[str, Any]]


def gradients(run: Run) -> Callable[[TrainState, jax.Array, Any, Any], tuple[Any, Found]]:
    """How a replica gets the gradient of an update.

    Args:
      run: from `prepare`.

    Returns:
      a function `(train state, update's key, given, rows [K, n, ...]) -> (state, (gradient, that of the probe,
      metrics))`, means over the global batch.
    """
    variants, chances = zip(*run.method.variants(), strict=True)
    if variants[0] != run.method:
        each = [gradients(dataclasses.replace(run, method=method)) for method in variants]

        def drawn(ts: TrainState, rng: jax.Array, given: Any, rows: Any) -> tuple[Any, Found]:
            u = jax.random.uniform(jax.random.fold_in(rng, streams.VARIANT))
            return jax.lax.switch(jnp.sum(u >= jnp.cumsum(jnp.array(chances))[:-1]), each, ts, rng, given, rows)

        return drawn
    make = batch.maker(run)
    whole, one = _whole(run, make), _micro_batch(run, make)

    def found(ts: TrainState, rng: jax.Array, given: Any, rows: Any) -> tuple[Any, Found]:
        # What lives on the devices is shared by the micro-batches; of a stream each has its own.
        part: tuple[Any, ...] = (jnp.arange(run.config.accumulate), rows) + ((given,) if run.train.streamed else ())
        resident = () if run.train.streamed else (given,)
        if run.config.accumulate_loss != "whole":
            return _averaged(lambda state, *part: one(ts, rng, state, (*part, *resident)), ts.state, part)
        common, pulls = whole(ts, rng, part, resident)
        state, (grads, probe_grads, metrics) = _averaged(
            lambda state, pull, *part: one(ts, rng, state, (*part, *resident), pull), ts.state, (pulls, *part)
        )
        return state, (grads, probe_grads, metrics | common)

    return found


def _whole(run: Run, make: Callable[..., Any]) -> Callable[..., tuple[dict[str, Any], Any]]:
    """Loss and metrics of the whole batch's embeddings, and the gradient for those of each micro-batch."""
    method = run.method

    def whole(ts: TrainState, rng: jax.Array, part: tuple[Any, ...], resident: tuple[Any, ...]):
        def forward(state, x):
            views, key = make(rng, *x, *resident)
            z, (state, _) = method.embed(ts.params, state, views, rng=key, step=ts.step, info=run.info)
            return state, z

        def compare(z):
            loss, metrics = method.compare(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), z))
            return dist.mean(loss), metrics

        _, z = jax.lax.scan(forward, ts.state, part)
        (loss, metrics), pulls = jax.value_and_grad(compare, has_aux=True)(z)
        return {"loss": loss, **dist.mean(flat(metrics))}, pulls

    return whole


def _micro_batch(run: Run, make: Callable[..., Any]) -> Callable[..., tuple[Any, Found]]:
    """Gradients and metrics of one micro-batch."""
    method = run.method

    def one(ts: TrainState, rng: jax.Array, state: Any, x: tuple[Any, ...], pull: Any = None):
        views, key = make(rng, *x)

        def loss_of(params):
            options = {"rng": key, "step": ts.step, "info": run.info}
            if pull is None:
                loss, extra = method.loss(params, state, views, **options)
                return dist.mean(loss), extra
            # Linear in the embeddings, with the whole loss's gradient. Its sum over replicas and micro-batches is
            # wanted, where the former comes with the gradient and the latter are averaged.
            z, (moved, aux) = method.embed(params, state, views, **options)
            products = jax.tree.map(jnp.vdot, z, pull)
            return run.config.accumulate * sum(jax.tree.leaves(products)), (moved, aux)

        (loss, (moved, aux)), grads = jax.value_and_grad(loss_of, has_aux=True)(ts.params)
        # Exact under shard_map already; under pmap this is where the replicas meet.
        grads = dist.mean(grads)
        metrics = {"loss": loss, **dist.mean(flat(aux.metrics))} if pull is None else {}
        probe_grads: Any = {}
        if ts.probe and aux.features is not None:
            labels = views["label"] if aux.labels is None else aux.labels
            probe_grads, metrics["probe_top1"] = probe.gradient(ts.probe["params"], aux.features, labels.reshape(-1))
        return moved, (grads, probe_grads, metrics)

    return one


def _averaged(one: Callable[..., Any], state: Any, parts: tuple[Any, ...]) -> tuple[Any, Any]:
    """Runs `one(state, *part)` over micro-batches; state changes once each, results are averaged."""
    count = len(jax.tree.leaves(parts)[0])
    first = jax.tree.map(lambda x: x[0], parts)
    if count == 1:
        return one(state, *first)

    def body(carry, x):
        state, total = carry
        state, out = one(state, *x)
        return (state, jax.tree.map(jnp.add, total, out)), None

    _, shapes = jax.eval_shape(one, state, *first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (state, total), _ = jax.lax.scan(body, (state, zeros), parts)
    return state, jax.tree.map(lambda x: x / count, total)
