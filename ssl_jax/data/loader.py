"""What gives the training step its batch: indices of images that live on the devices, or crops that are streamed.

Either way a feed gives the three arguments of `train.replica_step` that follow the state, one batch a call, and the
method sees the same batch.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import joblib
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View
from ssl_jax.data import Dataset
from ssl_jax.data.stream import Cutter, Images, Pass, Training, blocks, share

Inputs = tuple[Any, jax.Array, jax.Array]  # images, labels, index


class Feed(Protocol):
    """The batches of a run from some step on."""

    images: Any  # of the whole data set, as `train.begin_epoch` takes them

    def __call__(self, count: int = 1) -> Inputs:
        """Returns what the next `count` updates take."""
        ...

    def close(self) -> None:
        """Ends what works ahead."""
        ...


def on_devices(dataset: Dataset, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Puts a copy of a data set on every device.

    An image is one row of bytes. Of [M, H, W, C] a TPU would keep M innermost, and every step that takes some images
    would first copy all of them into four times their memory.

    Args:
      dataset: in memory.
      mesh: the devices.

    Returns:
      images uint8 [M, H * W * C], from which `take` takes some, and labels int32 [M].
    """
    images = dataset.images
    return dist.replicate((images.reshape(len(images), -1), dataset.labels), mesh)


def take(images: jax.Array, rows: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Images [..., H, W, C] of the given rows [...] of what `on_devices` laid; `shape` is (H, W, C)."""
    return images[rows].reshape(*rows.shape, *shape)


class Resident:
    """Keeps the data set on every device, and tells the step which images to take.

    Args:
      dataset: in memory.
      mesh: its devices.
      index: from a step and a number of updates to the indices that the compiled step takes for them.
      start: the first step.
    """

    def __init__(self, dataset: Dataset, mesh: Mesh, index: Callable[[int, int], jax.Array], start: int) -> None:
        self.images, self._labels = on_devices(dataset, mesh)
        self._index, self._step = index, start

    def __call__(self, count: int = 1) -> Inputs:
        index = self._index(self._step, count)
        self._step += count
        return self.images, self._labels, index

    def close(self) -> None:
        """Nothing works ahead."""


class Streamed:
    """Makes one batch ahead, in a thread, and sends it to the devices while the step before runs.

    Args:
      dataset: streamed.
      views: name to recipe.
      plan: the batches.
      mesh: the batch is laid over its devices.
      micro_batches: of a batch.
      workers: processes that decode; 0: threads of this one.
    """

    def __init__(
        self, dataset: Dataset, views: dict[str, View], plan: Training, mesh: Mesh, micro_batches: int, workers: int
    ) -> None:
        self.images = dataset.images
        self._batches = streamed(dataset.images, dataset.labels, views, plan, mesh, micro_batches, workers)
        self._thread = ThreadPoolExecutor(1, "feed")
        self._left = len(plan)
        self._next = self._thread.submit(next, self._batches)

    def __call__(self, count: int = 1) -> Inputs:
        if count != 1:
            raise ValueError(f"streamed batches come one by one, not {count}")
        inputs = self._next.result()
        self._left -= 1
        if self._left:
            self._next = self._thread.submit(next, self._batches)
        return inputs

    def close(self) -> None:
        """Waits for the batch in the making and ends the workers."""
        self._thread.shutdown(cancel_futures=True)
        self._batches.close()


def streamed(
    images: Images,
    labels: np.ndarray,
    views: dict[str, View],
    plan: Training | Pass,
    mesh: Mesh,
    micro_batches: int,
    workers: int,
) -> Generator[Inputs, None, None]:
    """Yields the blocks of a plan on the devices; each process reads its own share of them.

    Args:
      images: of a streamed data set.
      labels: their labels [N].
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
    sharding = NamedSharding(mesh, P(None, dist.AXIS))

    def lay(local: np.ndarray) -> jax.Array:
        shape = (micro_batches, columns, *local.shape[1:])
        local = local.reshape(micro_batches, -1, *local.shape[1:])
        return jax.make_array_from_process_local_data(sharding, local, shape)

    for crops, rows, seen in blocks(Cutter(images, views, plan, own), workers):
        laid = {name: lay(crop) for name, crop in crops.items()}
        yield laid, lay(labels[seen]), lay(rows.astype(np.int32))


def workers(wanted: int | None) -> int:
    """Processes that decode: as many as the config wants; else one a core, or none where a few threads do."""
    cores = joblib.cpu_count()
    return wanted if wanted is not None else cores if cores > 4 else 0
