"""Prefetch: crops of streamed images, made ahead by Grain while the devices train.

Grain maps pieces of a plan to crops, in worker processes or in threads of this one, and gives them back in order. So
nothing has to be stored to resume, not even Grain's state: a run that starts at step t asks for the pieces from t on.
"""

from collections.abc import Iterator
import logging
import warnings

from absl import flags
import joblib
import numpy as np

from ssl_jax.data.cutter import Cutter
from ssl_jax.data.lazy import Images
from ssl_jax.runtime.errors import UserError

logger = logging.getLogger("ssl_jax")


def blocks(cutter: Cutter, workers: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Yields this process's part of each block of a plan, in order.

    At most a few pieces a worker are made ahead. An image that cannot be read is replaced by the next one that can;
    it is named in the log the first time.

    Args:
      cutter: what to make.
      workers: processes that decode; 0: threads of this one.

    Yields:
      each view's crops uint8 `[n, side, side, 3]`, and rows `[n]` wanted and seen, in fresh arrays.

    Raises:
      UserError: no image can be read.
    """
    import grain  # takes a while, and only streams need it

    if not flags.FLAGS.is_parsed():  # Grain's workers ask for its flags, which a library call or a notebook lacks
        flags.FLAGS.mark_as_parsed()
    _ignore_remarks(0, 0)
    pieces = grain.MapDataset.range(len(cutter.plan) * cutter.pieces).map(cutter)
    # A process has one more thread, so that it reads while it decodes.
    threads = 1 if workers else joblib.cpu_count()
    stream = pieces.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2), worker_init_fn=_ignore_remarks
        )
    iterator = iter(stream)
    try:
        for number in range(len(cutter.plan)):
            try:
                parts = [next(iterator) for _ in range(cutter.pieces)]
            except UserError as error:
                raise type(error)(str(error).partition("\n")[0]) from error  # Grain adds remarks of its own
            # As plain arrays: those of workers are of a class of their own, in memory that is shared with them.
            crops = {name: np.concatenate([np.asarray(part[0][name]) for part in parts]) for name in cutter.views}
            rows = cutter.plan[number].rows[cutter.share]
            seen = np.array([row for part in parts for row in part[1]])
            _report(cutter.images, rows, seen)
            yield crops, rows, seen
    finally:
        iterator.close()


def _ignore_remarks(index: int, count: int) -> None:
    """Silences Pillow's remarks on odd metadata, here and in each worker."""
    del index, count
    warnings.filterwarnings("ignore", module="PIL")


def _report(images: Images, rows: np.ndarray, seen: np.ndarray) -> None:
    count = len(images)
    for row, found in zip(rows.tolist(), seen.tolist(), strict=True):
        for passed in range((found - row) % count):
            bad = int(images.rows[(row + passed) % count])
            if bad not in images.skipped:
                images.skipped.add(bad)
                logger.warning(
                    "left out %s, which cannot be read (%d so far); the next one takes its place",
                    images.files.name(bad),
                    len(images.skipped),
                )
