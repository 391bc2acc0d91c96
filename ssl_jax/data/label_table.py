"""Labels of image files from a table beside them: a CSV file of two columns, file name and label."""

import collections
import csv
import functools
import os
import pathlib
import posixpath

from ssl_jax.data.files import Entry, printable
from ssl_jax.runtime.errors import UserError

Table = dict[str, str]  # file name to label


@functools.lru_cache(maxsize=4)
def _read(path: str, version: int) -> Table:
    """The table as it is; `version` changes with the file."""
    del version
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=delimiter) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"config.data.labels: {path} cannot be read as a table ({error}).") from error
    found: Table = {}
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UserError(
                f"config.data.labels: row {number} of {path} has {len(row)} columns: it must have two, the name of an "
                "image file and its label."
            )
        name = posixpath.normpath(row[0].replace("\\", "/"))
        if found.setdefault(name, row[1]) != row[1]:
            raise UserError(f"config.data.labels: {path} has several labels for '{name}': leave one of them.")
    return found


def labels(path: str, entries: list[Entry]) -> tuple[dict[str, str], list[str]]:
    """The label of each image file that a table has one for, and what to say of the others.

    A row names a file by its path below the folder, or by the end of it that is one file's alone, with or without its
    suffix. A first row that names none is the heading.

    Args:
      path: of the table.
      entries: all image files.

    Returns:
      name of the entry to label; sentences.

    Raises:
      UserError: the table cannot be read, has no two columns, names no image, or one row is for several.
    """
    where = pathlib.Path(path).expanduser()
    table = _read(str(where), os.stat(where).st_mtime_ns if where.exists() else 0)
    ends: dict[str, set[str]] = collections.defaultdict(set)
    for entry in entries:
        parts = entry.name.split("/")
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            ends[end].add(entry.name)
            ends[str(pathlib.PurePosixPath(end).with_suffix(""))].add(entry.name)
    found: dict[str, str] = {}
    strange = 0
    for number, (name, label) in enumerate(table.items()):
        files = {name} if name in ends.get(name, ()) else ends.get(name, set())
        if len(files) > 1:
            raise UserError(
                f"config.data.labels: '{name}' in {path} may be {' or '.join(sorted(files)[:3])}: say which."
            )
        strange += not files and number > 0
        found |= dict.fromkeys(files, label)
    if entries and not found:
        first = f"such as '{next(iter(table))}'" if table else "of which it has none"
        raise UserError(f"config.data.labels: no row of {path}, {first}, names an image, such as {entries[0].name}.")
    said = []
    if len(found) < len(entries):
        said.append(f"{len(entries) - len(found)} images have no row in {path} and count as unlabelled")
    if strange:
        said.append(f"{strange} rows of {path} name no image")
    return {name: printable(label) for name, label in found.items()}, ["; ".join(said)] if said else []
