"""The one named axis of the training step, and how a step is mapped over devices.

Everything that a method needs from the other replicas goes through the few functions here. Inside a mapped
function each replica sees its own rows of the global batch; replica r of W holds rows r*n to (r+1)*n. The mesh spans
the devices of all processes; how those find each other is `ssl_jax.runtime.processes`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

AXIS = "data"
FSDP = "fsdp"  # the second axis of a mesh, where parameters are sharded: `ssl_jax/mesh.py`


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
    """Returns a mesh over `devices` (default: all), whose only axis is `AXIS`; or also `FSDP`, if that is above 1."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = {AXIS: len(devices) // fsdp} | ({FSDP: fsdp} if fsdp > 1 else {})
    types = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def batch_spec(mesh: Mesh, before: int = 0) -> P:
    """How a batch lies: its first axis, behind `before` others, over all devices."""
    return P(*[None] * before, tuple(mesh.axis_names) if FSDP in mesh.axis_names else AXIS)


def split_batch(x: jax.Array) -> jax.Array:
    """Inside a mapped function: spreads the rows of a replica over the devices that share its parameters."""
    mesh = jax.sharding.get_abstract_mesh()
    if FSDP not in mesh.axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, P(FSDP, *[None] * (x.ndim - 1)))


def spread(params: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """Inside a mapped function: gathers a layer's sharded parameters, and spreads its rows over the devices.

    Left to itself the partitioner may rather move what is computed, which is far larger. A data axis of one device is
    left alone: XLA's partitioner gives up there (jax 0.10.2, "must be in (partial) manual partitioning mode").
    """
    mesh = jax.sharding.get_abstract_mesh()
    if FSDP not in mesh.axis_names or mesh.shape[AXIS] == 1:
        return params, x
    return jax.tree.map(_whole, params), split_batch(x)


@jax.custom_vjp
def _whole(x: jax.Array) -> jax.Array:
    """An array gathered from where it is sharded; its gradient lies as it likes."""
    return jax.lax.with_sharding_constraint(x, P())


_whole.defvjp(lambda x: (_whole(x), None), lambda _, grad: (grad,))


def mean(tree: Any) -> Any:
    """Averages every leaf over the replicas; the result is the same on all of them."""
    return jax.lax.pmean(tree, AXIS)


def total(tree: Any) -> Any:
    """Sums every leaf over the replicas; the result is the same on all of them."""
    return jax.lax.psum(tree, AXIS)


def gather(x: jax.Array) -> jax.Array:
    """Rows [n, ...] of all replicas, [W n, ...] in the order of the global batch, the same on all; no gradient.

    For what is stored (queues, banks). A loss that wants the gradient uses `jax.lax.all_gather(..., tiled=True)`.
    """
    x = jax.lax.stop_gradient(x)
    # Only shard_map can say that the copies are equal; pmap has no such notion.
    if jax.typeof(x).manual_axis_type.varying:
        return jax.lax.all_gather(x, AXIS, tiled=True, to="invarying")
    return jax.lax.all_gather(x, AXIS, tiled=True)


def vary_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """Marks `x` as varying over the axes that `other` varies over; the transpose sums over them.

    Only shard_map's replication checking asks for it: a derivative of one's own must be told that weights meet
    values that differ between replicas, and the carry of a scan must start with the type it ends with.
    """
    axes = tuple(jax.typeof(other).manual_axis_type.varying - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def local(tree: Any) -> Any:
    """Parameters as this device's own, for a gradient that is taken inside `Method.loss`.

    `jax.grad` with respect to replicated parameters gives the sum over the devices under shard_map, silently, since
    every device holds the same ones. An inner loop (MAML) wants the gradient of its own task: with respect to
    `local(params)`. What is computed from them is differentiated with respect to `params` as usual.
    """

    def vary(x: jax.Array) -> jax.Array:
        held = jax.typeof(x).manual_axis_type
        return jax.lax.pcast(x, AXIS, to="varying") if AXIS in _manual_axes() and AXIS not in held.varying else x

    return jax.tree.map(vary, tree)


def _manual_axes() -> tuple[str, ...]:
    """The axes that shard_map has mapped by hand where this is traced; none under pmap."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def positions(n: int) -> jax.Array:
    """Positions [n] of this replica's rows in the global batch."""
    return jax.lax.axis_index(AXIS) * n + jax.numpy.arange(n)


def example_keys(rng: jax.Array, positions: jax.Array) -> jax.Array:
    """One key an example, from its position in the global batch: independent of the number of devices.

    Args:
      rng: a key that all replicas share.
      positions: positions [n] in the global batch.

    Returns:
      keys [n].
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, positions)


def random_order(rng: jax.Array, positions: jax.Array) -> jax.Array:
    """A random order of rows that follows from their positions alone.

    Args:
      rng: a key that all replicas share.
      positions: positions [N] of all rows of the global batch, in whatever order the rows are.

    Returns:
      indices [N] of the rows.
    """
    draws = jax.vmap(lambda key: jax.random.bits(key, dtype=jax.numpy.uint32))(example_keys(rng, positions))
    return jax.numpy.lexsort((positions, draws))


def map_replicas(
    fn: Callable[..., Any],
    mesh: Mesh,
    in_specs: tuple[Any, ...],
    out_specs: Any,
    *,
    mapping: str = "shard_map",
    donate: tuple[int, ...] = (),
    results: Any = None,
) -> Callable[..., Any]:
    """Maps `fn` over the replicas of `mesh` and compiles it.

    This is the only place that knows `jax.shard_map` from `jax.pmap`; arguments and results have global shapes
    under both. With shard_map, JAX proves while tracing that whatever `out_specs` calls replicated is so.

    Args:
      fn: the per-replica function; `AXIS` is bound inside it.
      mesh: from `make_mesh`.
      in_specs: one pytree prefix of `PartitionSpec` an argument.
      out_specs: a pytree prefix of `PartitionSpec` for the result.
      mapping: 'shard_map' or 'pmap', which cannot shard parameters.
      donate: positions of arguments whose buffers the result may reuse (shard_map only: pmap copies what it
        broadcasts, so that there is nothing to reuse).
      results: shardings of the result, a pytree prefix; by default as `out_specs` says.

    Returns:
      the compiled function.
    """
    if mapping == "shard_map":
        # Another axis than AXIS is left to XLA's partitioner.
        mapped = jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names={AXIS})
        # On a single device XLA calls a sharded result replicated; fed back, it would compile a second time.
        return jax.jit(mapped, donate_argnums=donate, out_shardings=results or shardings(out_specs, mesh))
    return _by_pmap(fn, mesh, in_specs, out_specs)


def _by_pmap(fn: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Maps as `map_replicas` does, with `jax.pmap`."""
    # pmap wants the replicas as an axis of their own: split the sharded axis going in, merge it coming out.
    replicas = mesh.devices.size
    mapped = jax.pmap(
        fn,
        AXIS,
        in_axes=jax.tree.map(_sharded_axis, in_specs, is_leaf=_is_spec),
        out_axes=jax.tree.map(_sharded_axis, out_specs, is_leaf=_is_spec),
        devices=list(mesh.devices.flat),
    )

    def split(spec: P, tree: Any) -> Any:
        axis = _sharded_axis(spec)
        if axis is None:
            return tree
        return jax.tree.map(
            lambda x: x.reshape(*x.shape[:axis], replicas, x.shape[axis] // replicas, *x.shape[axis + 1 :]),
            tree,
        )

    def merge(spec: P, tree: Any) -> Any:
        axis = _sharded_axis(spec)
        if axis is None:
            return tree
        return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), tree)

    def call(*args: Any) -> Any:
        args = jax.tree.map(split, in_specs, args, is_leaf=_is_spec)
        return jax.tree.map(merge, out_specs, mapped(*args), is_leaf=_is_spec)

    return call


def shardings(specs: Any, mesh: Mesh) -> Any:
    """A pytree (prefix) of `PartitionSpec` as one of shardings over `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def shapes(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """A pytree's shapes and types, laid over devices that need not exist.

    Args:
      tree: of arrays, or of anything with shape and type.
      specs: a pytree (prefix) of `PartitionSpec`.
      mesh: from `make_mesh`.
    """

    def shaped(sharding, part):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part)

    return jax.tree.map(shaped, shardings(specs, mesh), tree)


def lay(x: Any, mesh: Mesh, spec: P) -> jax.Array:
    """Lays an array of the host over the devices of `mesh`.

    Args:
      x: the whole array, the same in every process; each sends its own devices' part. (`jax.device_put` would first
        send all of it between the processes, to compare.)
      mesh: from `make_mesh`.
      spec: how it lies.
    """
    x, sharding = np.asarray(x), NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every leaf, an array of the host, on every device of `mesh`."""
    return jax.tree.map(lambda x: lay(x, mesh, P()), tree)


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)


def _sharded_axis(spec: P) -> int | None:
    return tuple(spec).index(AXIS) if AXIS in tuple(spec) else None
