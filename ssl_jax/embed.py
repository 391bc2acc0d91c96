"""Writes the features of images to a file: `ssl_jax embed runs/a --images=FOLDER --out=features.npz`.

The images are those of a folder or archive, or of any other data source (--images=cifar10); without --images they are
those of the run. Each is seen as evaluation sees it: its centre square, at the size and normalisation of the run. The
file holds a row an image, with its name, its class and its features:

  .npz       features float32 [N, D]; names, labels int32 [N] (-1: unknown), splits and classes, read without pickle
  .csv       columns name, split, label, f0, f1, ...
  .parquet   columns name, split, label and features, a list of D numbers; needs pyarrow

Images that cannot be read are left out and named.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import csv
import dataclasses
import functools
import pathlib
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from ssl_jax import command_line, data, weights
from ssl_jax.data import train_test
from ssl_jax.data.lazy import Images
from ssl_jax.runtime import compile_cache, modules
from ssl_jax.runtime.errors import UserError, explained
from ssl_jax.weights.pictures import as_seen, centre
from ssl_jax.workdir.log import speak_plainly

FORMATS = (".npz", ".csv", ".parquet")
_BLOCK = 256  # images in memory at a time


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Features of images, one row an image.

    Attributes:
      features: float32 [N, D].
      names: of the image files below their folder, or the number of the image in its split.
      labels: int32 [N], -1 where unknown.
      splits: 'train' or 'test' [N].
      classes: class names in label order.
      skipped: names of images that could not be read.
    """

    features: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"Embedding({len(self)} images, {self.features.shape[1]} features, {len(self.classes)} classes)"

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes a .npz, .csv or .parquet file and returns its path.

        Raises:
          UserError: for another ending, a place that cannot be written, or .parquet without pyarrow.
        """
        path = pathlib.Path(path)
        check_ending(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            {".npz": self._npz, ".csv": self._csv, ".parquet": self._parquet}[path.suffix](path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another place with --out.") from error
        return path

    def _columns(self) -> dict[str, np.ndarray]:
        named = np.array([*self.classes, ""])[self.labels] if self.classes else np.full(len(self), "")
        return {"name": self.names, "split": self.splits, "label": named}

    def _npz(self, path: pathlib.Path) -> None:
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "skipped"}
        np.savez(path, **(arrays | {"classes": np.array(self.classes, dtype=str)}))

    def _csv(self, path: pathlib.Path) -> None:
        columns = self._columns()
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, *(f"f{i}" for i in range(self.features.shape[1]))])
            for *cells, row in zip(*columns.values(), self.features, strict=True):
                writer.writerow([*cells, *(f"{x:.8g}" for x in row)])

    def _parquet(self, path: pathlib.Path) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UserError("A .parquet file needs the package pyarrow: pip install pyarrow.") from error
        flat = pa.array(self.features.ravel(), pa.float32())
        features = pa.FixedSizeListArray.from_arrays(flat, self.features.shape[1])
        columns = {name: pa.array([str(x) for x in values]) for name, values in self._columns().items()}
        parquet.write_table(pa.table(columns | {"features": features}), path)


def check_ending(path: pathlib.Path) -> None:
    """Refuses a file that is neither .npz, .csv nor .parquet, before any image is read."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in none of {', '.join(FORMATS)}: choose one of them.")


def embed(backbone: str, images: str | None = None, *, stage: int | None = None, progress: bool = False) -> Embedding:
    """Computes the features of images with a frozen backbone.

    Args:
      backbone: workdir of a run, or a file that `ssl_jax.export` wrote.
      images: a folder, an archive, or a data source such as 'cifar10'; None for the data of the run.
      stage: residual stage, or quarter of a transformer, whose output is wanted; None for the last.
      progress: whether to show a progress bar.

    Raises:
      UserError: if there is no such backbone or there are no such images.
    """
    network = weights.load(backbone)
    source, options = _source(network, images)
    side, path = network.side, options["path"]
    parts = [_load(source, split, side, options) for split in data.splits(source, path)]
    features, kept, skipped = [], [], []
    with tqdm(total=sum(map(len, parts)), unit="image", disable=not progress) as bar:
        for d in parts:
            rows = []
            for block, read, damaged in _blocks(d, side):
                if len(read):
                    features.append(network(as_seen(block, network.takes), stage=stage))
                rows.append(read)
                skipped += damaged
                bar.update(len(read) + len(damaged))
            kept.append(np.concatenate(rows))
    if not features:
        raise UserError(f"None of the images of {source} can be read.")
    return Embedding(
        features=np.concatenate(features).astype(np.float32),
        names=np.concatenate([d.names(rows) for d, rows in zip(parts, kept, strict=True)]),
        labels=np.concatenate([d.labels[rows] for d, rows in zip(parts, kept, strict=True)]).astype(np.int32),
        splits=np.repeat(data.splits(source, path), [len(rows) for rows in kept]),
        classes=parts[0].classes,
        skipped=tuple(skipped),
    )


def _source(network: weights.Backbone, images: str | None) -> tuple[str, dict[str, Any]]:
    """The data source of the images, and how it is loaded: pixels are taken as those of the run were."""
    if images is None:
        config = network.origin.get("config")
        if config is None:
            raise UserError("This backbone comes without a run, which would name its data: name images with --images.")
        return config["data"]["source"], {"path": config["data"]["path"], **train_test.reading(config["data"])}
    place = pathlib.Path(images).expanduser()
    said = network.reading
    options: dict[str, Any] = {
        "path": None,
        "range": said.span,
        "channels": said.channels,
        "max_pixels": said.max_pixels,
    }
    options["pages"] = "channels" if said.stacked else "first"
    return (f"folder:{place}" if place.exists() or "://" in images else images), options


def _load(source: str, split: str, side: int, options: dict[str, Any]) -> data.Dataset:
    """One split: its files where it has some, which may be of any size, else its images."""
    if data.streams(source) and not source.endswith((".gz", ".tgz")):
        return data.load(source, split, stream=True, **options)
    return data.load(source, split, size=side, **options)


def _blocks(d: data.Dataset, side: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Images uint8 [n, side, side, C], their rows in the data set, and the names of those that cannot be read."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(d), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(d)))
            if not d.streamed:
                yield d.images[rows], rows, []
                continue
            squares = list(pool.map(functools.partial(_square, d.images, side), rows))
            read = np.array([x is not None for x in squares])
            damaged = [d.images.files.name(d.images.rows[row]) for row in rows[~read]]
            yield np.stack([x for x in squares if x is not None]) if read.any() else rows[:0], rows[read], damaged


def _square(images: Images, side: int, row: int) -> np.ndarray | None:
    """The centre square of one image, uint8 [side, side, C]; None where it cannot be read."""
    try:
        return images.crops(int(images.rows[row]), centre(side))[0]
    except (MemoryError, UserError):
        raise
    except Exception:  # Pillow's readers raise anything at all on damaged files
        return None


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    parser = argparse.ArgumentParser(
        prog="ssl_jax embed",
        usage="ssl_jax embed WORKDIR [--images=FOLDER] --out=FILE [--stage=N]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Any = parser.add_argument
    add("--workdir", required=True, help="folder of the run, or an exported file; also as the first argument")
    add("--images", help="a folder, an archive or a data source (default: the data of the run)")
    add("--out", required=True, help="file to write: .npz, .csv or .parquet")
    add("--stage", type=int, help="residual stage whose output is wanted (default: the last)")
    args = parser.parse_args(command_line.with_names(sys.argv[1:] if argv is None else argv, "workdir"))
    check_ending(pathlib.Path(args.out))
    found = embed(args.workdir, args.images, stage=args.stage, progress=sys.stderr.isatty())
    path = found.save(args.out)
    if found.skipped:
        more = ", ..." if len(found.skipped) > 5 else ""
        print(f"Left out {len(found.skipped)} images that cannot be read: {', '.join(found.skipped[:5])}{more}")
    count, width = found.features.shape
    print(f"{count} images, {width} features each, are in {path}.")
    return 0


modules.make_callable(__name__, embed)

if __name__ == "__main__":
    compile_cache.keep()
    sys.exit(main())
