"""The data loader: gives the training step its batches, from memory on the devices or from a stream.

Data that fits lives on the devices, and a step is told which rows to take. Other images are streamed: read, decoded and
cropped ahead (prefetched) while the step before runs. A method sees the same batch either way.
"""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, NamedSharding
import joblib
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View
from ssl_jax.data import samplers
from ssl_jax.data.cutter import Cutter, Pass, Training, share
from ssl_jax.data.dataset import Dataset
from ssl_jax.data.lazy import Images
from ssl_jax.data.prefetch import blocks

Inputs = tuple[Any, Any]  # data and rows, as `step.replica_step` takes them


class Loader(Protocol):
    """The batches of a run from some step on."""

    images: Any  # of the whole data set, as `epoch.begin_epoch` takes them

    def __call__(self, count: int = 1) -> Inputs:
        """Returns what the next `count` updates take."""
        ...

    def close(self) -> None:
        """Stops prefetching."""
        ...


def on_devices(dataset: Dataset, mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a copy of a data set on every device.

    An image is one row of bytes. Of [M, H, W, C] a TPU would keep M innermost, and every step that takes some images
    would first copy all of them into four times their memory.

    Args:
      dataset: in memory.
      mesh: the devices.

    Returns:
      'image' uint8 [M, H * W * C], from which `take` takes some, 'label' int32 [M], and the fields by their names, as
      rows too.
    """
    arrays = resident_fields(dataset) | {"image": dataset.images, "label": dataset.labels}
    return dist.replicate({name: x.reshape(len(x), -1) if x.ndim > 1 else x for name, x in arrays.items()}, mesh)


def resident_fields(dataset: Dataset) -> dict[str, np.ndarray]:
    """The fields that a batch can have: numbers, in memory."""
    arrays = {name: x for name, x in dataset.fields.items() if isinstance(x, np.ndarray)}
    return {name: x for name, x in arrays.items() if np.issubdtype(x.dtype, np.number)}


def take(images: jax.Array, rows: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Images [..., H, W, C], or a field, of the rows [...] of what `on_devices` laid; `shape` is (H, W, C)."""
    return images[rows].reshape(*rows.shape, *shape)


class Resident:
    """Keeps the data set on every device, and tells the step which images to take.

    Args:
      dataset: in memory.
      mesh: its devices.
      index: from a step and a number of updates to the rows that the compiled step takes for them.
      start: the first step.
    """

    def __init__(self, dataset: Dataset, mesh: Mesh, index: Callable[[int, int], Any], start: int) -> None:
        self._data = on_devices(dataset, mesh)
        self.images = self._data["image"]
        self._index, self._step = index, start

    def __call__(self, count: int = 1) -> Inputs:
        index = self._index(self._step, count)
        self._step += count
        return self._data, index

    def close(self) -> None:
        """Nothing is prefetched."""


class Streamed:
    """Prefetches one batch in a thread, and sends it to the devices while the step before runs.

    Args:
      dataset: streamed.
      views: name of each part of a batch to its views, name to recipe.
      plans: name to the part's share of the batches.
      shapes: name to the part's shape [n, ...].
      mesh: the batch is laid over its devices.
      micro_batches: of a batch.
      workers: processes that decode; 0: threads of this one.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: Mapping[str, dict[str, View]],
        plans: Mapping[str, Training],
        shapes: Mapping[str, tuple[int, ...]],
        mesh: Mesh,
        micro_batches: int,
        workers: int,
    ) -> None:
        self.images = dataset.images
        self._shapes, self._micro_batches = shapes, micro_batches
        rows = resident_fields(dataset) | {"label": dataset.labels}
        self._parts = {
            name: streamed(dataset.images, rows, views[name], plan, mesh, micro_batches, workers)
            for name, plan in plans.items()
        }
        self._thread = ThreadPoolExecutor(1, "loader")
        self._left = len(next(iter(plans.values())))
        self._next = self._thread.submit(self._make)

    def __call__(self, count: int = 1) -> Inputs:
        if count != 1:
            raise ValueError(f"streamed batches come one by one, not {count}")
        inputs = self._next.result()
        self._left -= 1
        if self._left:
            self._next = self._thread.submit(self._make)
        return inputs

    def _make(self) -> Inputs:
        data, index = {}, {}
        for name, batches in self._parts.items():
            crops, own, rows = next(batches)
            shape = self._shapes[name]
            if shape[1:]:  # what belongs together comes as one row of images
                lead = (self._micro_batches, shape[0] // self._micro_batches, *shape[1:])
                crops, own, rows = jax.tree.map(lambda x, lead=lead: x.reshape(*lead, *x.shape[2:]), (crops, own, rows))
            data[name], index[name] = own | {"image": crops}, rows
        return samplers.single(data), samplers.single(index)

    def close(self) -> None:
        """Waits for the batch in the making and ends the workers."""
        self._thread.shutdown(cancel_futures=True)
        for batches in self._parts.values():
            batches.close()


def streamed(
    images: Images,
    labels: Any,
    views: dict[str, View],
    plan: Training | Pass,
    mesh: Mesh,
    micro_batches: int,
    workers: int,
) -> Generator[tuple[dict[str, jax.Array], Any, jax.Array], None, None]:
    """Yields the blocks of a plan on the devices; each process reads its own share of them.

    Args:
      images: of a streamed data set.
      labels: their labels [N], or a tree of what is known of them, [N, ...].
      views: name to recipe.
      plan: the blocks.
      mesh: blocks are laid over its devices.
      micro_batches: K, into which a block is split.
      workers: processes that decode; 0: threads of this one.

    Yields:
      each view's crops uint8 [K, n, side, side, 3]; labels [K, n], of the image seen where one cannot be read; rows
      [K, n], always those of the plan, so that no memory bank is asked for one row twice.
    """
    columns = plan.size // micro_batches
    processes = [device.process_index for device in mesh.devices.flat]
    own = share(processes, jax.process_index(), micro_batches, columns)
    sharding = NamedSharding(mesh, dist.batch_spec(mesh, 1))

    def lay(local: np.ndarray) -> jax.Array:
        shape = (micro_batches, columns, *local.shape[1:])
        local = local.reshape(micro_batches, -1, *local.shape[1:])
        return jax.make_array_from_process_local_data(sharding, local, shape)

    for crops, rows, seen in blocks(Cutter(images, views, plan, own), workers):
        laid = {name: lay(crop) for name, crop in crops.items()}
        yield laid, jax.tree.map(lambda x, seen=seen: lay(x[seen]), labels), lay(rows.astype(np.int32))


def workers(wanted: int | None) -> int:
    """Processes that decode: as many as the config wants; else one a core, or none where a few threads do."""
    cores = joblib.cpu_count()
    return wanted if wanted is not None else cores if cores > 4 else 0
