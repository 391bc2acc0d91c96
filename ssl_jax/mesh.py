"""How large models lie over the devices: a second mesh axis over which parameters are sharded (FSDP).

`config.mesh = {"data": -1, "fsdp": 4}` splits the devices into groups of four. The batch is split over all devices,
and each group shares one copy of the parameters, the optimiser's state, EMA teachers and banks: every device keeps a
quarter of it. The training step does not see this. It speaks of the data axis alone, and XLA's partitioner gathers
what a layer needs and scatters its gradient.
"""

from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import dist
from ssl_jax.runtime.errors import UserError

LEAST_BYTES = 4 * 2**20  # of a leaf that is split: gathering smaller ones would cost more than it saves (big_vision)


def make(sizes: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `config.mesh` describes, over `devices` (default: all).

    Args:
      sizes: 'data' and 'fsdp', devices along each axis; one of them may be -1, for as many as there are.
      devices: to use.

    Raises:
      UserError: if the devices cannot be arranged so.
    """
    devices = jax.devices() if devices is None else list(devices)
    data, fsdp = sizes["data"], sizes["fsdp"]
    if data < 1 and fsdp < 1:
        raise UserError(f"config.mesh has data={data} and fsdp={fsdp}: at most one of them can be -1.")
    fsdp = fsdp if fsdp > 0 else len(devices) // data
    data = data if data > 0 else len(devices) // fsdp
    if data * fsdp != len(devices) or not data * fsdp:
        raise UserError(
            f"config.mesh has data={sizes['data']} and fsdp={sizes['fsdp']}, which {len(devices)} device(s) cannot be "
            "arranged into: set data to -1, and fsdp to a divisor of the devices."
        )
    return dist.make_mesh(devices, fsdp)


def spec(shape: tuple[int, ...], itemsize: int, along: P, mesh: Mesh) -> P:
    """How one array lies: as `along` says of the data axis, and its largest dimension that can be split over `fsdp`.

    Args:
      shape: of the array.
      itemsize: bytes of one number.
      along: where the data axis goes.
      mesh: from `make`.
    """
    parts = mesh.shape.get(dist.FSDP, 1)
    if parts == 1 or math.prod(shape) * itemsize < LEAST_BYTES:
        return along
    names = [*along, *[None] * (len(shape) - len(along))]
    free = [axis for axis, name in enumerate(names) if name is None and shape[axis] % parts == 0]
    if not free:
        return along
    names[max(free, key=lambda axis: shape[axis])] = dist.FSDP
    return P(*names)


def layout(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """Shardings of every leaf of a tree.

    Args:
      tree: of arrays, or of anything with shape and type.
      specs: a pytree prefix of `PartitionSpec`, which speak of the data axis alone.
      mesh: from `make`.
    """

    def laid(along: P, part: Any) -> Any:
        return jax.tree.map(lambda x: NamedSharding(mesh, spec(x.shape, x.dtype.itemsize, along, mesh)), part)

    return jax.tree.map(laid, specs, tree, is_leaf=lambda x: isinstance(x, P))
