"""The training step: pure functions, mapped over the devices and compiled."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P
import optax

from ssl_jax import accumulate, dist, probe
from ssl_jax.run import Run
from ssl_jax.runtime.errors import UserError
from ssl_jax.state import TrainState, specs

Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def replica_step(run: Run) -> Step:
    """The training step as each replica runs it: a pure function over the axis `dist.AXIS`.

    Args:
      run: from `prepare`.

    Returns:
      a function `(train state, data, index) -> (train state, metrics)`. `index` are this replica's rows of the data set
      in each of K micro-batches, int32 [K, n, ...], by name of the part where a batch has several; metrics are means
      over the global batch. `data` is the whole data set as `loader.on_devices` lays it, or those rows alone as a
      stream gives them, whose images are already the crops of each view, uint8 [K, n, ..., side, side, C].
    """
    gradients = accumulate.gradients(run)

    def step(ts: TrainState, data: Any, index: Any) -> tuple[TrainState, dict[str, Any]]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(ts.rng), ts.step)
        state, (grads, probe_grads, metrics) = gradients(ts, rng, data, index)
        updates, opt_state = run.optimizer.update(grads, ts.opt_state, ts.params)
        params = optax.apply_updates(ts.params, updates)
        params, state = run.method.after_update(params, state, ts.step, run.info)
        online = probe.update(run.config, ts.probe, probe_grads) if probe_grads else ts.probe
        metrics["grad_norm"] = optax.tree.norm(grads)
        # Here and not where they are logged: what the host computed there would wait for the update that is running.
        metrics |= {f"lr/{group}": schedule(ts.step) for group, schedule in run.schedules.items()}
        return TrainState(ts.step + 1, ts.rng, params, state, opt_state, online), metrics

    return step


def mapped_step(run: Run) -> Step:
    """`replica_step` mapped over the devices and compiled; the state's buffers are reused."""
    laid, split = specs(run.method), P(None, dist.AXIS)
    in_specs = (laid, split if run.train.streamed else P(), split)
    options = {"mapping": _mapping(run), "donate": (0,), "results": _results(run)}
    return dist.map_replicas(replica_step(run), run.mesh, in_specs, (laid, P()), **options)


def mapped_steps(run: Run) -> Step:
    """`mapped_step` several times in one call, for data that lives on the devices.

    Returns:
      a function `(train state, data, indices [S, micro-batches, n, ...]) -> (train state, metrics)`, which makes S
      updates; each metric is an array [S].
    """
    step, laid = replica_step(run), specs(run.method)

    def steps(ts: TrainState, data: Any, indices: Any) -> tuple[TrainState, dict[str, Any]]:
        # As many as the program was made for: of a number that it was given a GPU would ask the host after each.
        return jax.lax.scan(lambda ts, index: step(ts, data, index), ts, indices)

    in_specs = (laid, P(), P(None, None, dist.AXIS))
    options = {"mapping": _mapping(run), "donate": (0,), "results": _results(run)}
    return dist.map_replicas(steps, run.mesh, in_specs, (laid, P()), **options)


def _results(run: Run) -> Any:
    """How the state and the metrics lie that a step gives back."""
    return run.layout, dist.shardings(P(), run.mesh)


def _mapping(run: Run) -> str:
    if run.config.mapping not in ("shard_map", "pmap"):
        raise UserError(f"config.mapping is '{run.config.mapping}': use 'shard_map' or 'pmap'.")
    return run.config.mapping
