"""Boxes of objects in the formats that people draw them in: COCO's JSON, YOLO's text files and PASCAL VOC's XML."""

from collections.abc import Mapping, Sequence
import json
import pathlib
import tarfile
from typing import Any, NamedTuple
import xml.etree.ElementTree as ET

import numpy as np

from ssl_jax.runtime.errors import UserError


class Marked(NamedTuple):
    """The objects of one image; boxes are top, left, bottom, right in pixels."""

    boxes: np.ndarray  # float64 [n, 4]
    classes: tuple[str, ...]  # [n] names


def coco(text: str, where: str) -> tuple[dict[str, Marked], tuple[str, ...]]:
    """Boxes of a COCO file, `instances_*.json`; crowds are left out.

    Args:
      text: of the file.
      where: its name, for messages.

    Returns:
      file name of an image to its objects, and names of the classes by their number.

    Raises:
      UserError: it is no such file.
    """
    try:
        found = json.loads(text)
        names = {c["id"]: c["name"] for c in sorted(found["categories"], key=lambda c: c["id"])}
        files = {image["id"]: image["file_name"] for image in found["images"]}
        boxes: dict[str, list[Any]] = {name: [] for name in files.values()}
        for a in found["annotations"]:
            if not a.get("iscrowd"):
                x, y, w, h = a["bbox"]
                boxes[files[a["image_id"]]].append(((y, x, y + h, x + w), names[a["category_id"]]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is no COCO file of boxes ({type(error).__name__}: {error}).") from error
    return {name: _marked(rows) for name, rows in boxes.items()}, tuple(names.values())


def yolo(text: str, names: Sequence[str], size: tuple[int, int], where: str) -> Marked:
    """Boxes of a YOLO file: a line an object, its class and the centre, width and height as shares of the image.

    Args:
      text: of the file.
      names: of the classes.
      size: height and width of the image, pixels.
      where: its name, for messages.

    Raises:
      UserError: a line says something else, or there is no such class.
    """
    rows = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            kind, *numbers = line.split()
            x, y, w, h = (float(v) for v in numbers)
            name = names[int(kind)]
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{where} has the line '{line}': write CLASS X Y WIDTH HEIGHT, of known classes."
            ) from error
        rows.append((_corners(x, y, w, h, size), name))
    return _marked(rows)


def _corners(x: float, y: float, w: float, h: float, size: tuple[int, int]) -> tuple[float, ...]:
    height, width = size
    return (y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width


def voc(text: str, where: str) -> Marked:
    """Boxes of a PASCAL VOC file; difficult objects are left out. Its pixels are counted from 1, both ends included.

    Args:
      text: of the file.
      where: its name, for messages.

    Raises:
      UserError: it is no such file.
    """
    rows = []
    try:
        for item in ET.fromstring(text).iter("object"):
            if (item.findtext("difficult") or "0").strip() == "1":
                continue
            ends = ("ymin", "xmin", "ymax", "xmax")
            top, left, bottom, right = (float(item.findtext(f"bndbox/{end}") or "") for end in ends)
            rows.append(((top - 1, left - 1, bottom, right), (item.findtext("name") or "").strip()))
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{where} is no VOC file of boxes ({error}).") from error
    return _marked(rows)


def _marked(rows: Sequence[tuple[Sequence[float], str]]) -> Marked:
    boxes = np.array([box for box, _ in rows], float).reshape(-1, 4)
    return Marked(boxes, tuple(name for _, name in rows))


def array(marked: Sequence[Marked], names: Sequence[str]) -> np.ndarray:
    """Objects of images as one array float32 [N, n, 5]: top, left, bottom, right and class; -1 where there is none.

    Args:
      marked: objects of each image.
      names: of the classes, in the order of their numbers.
    """
    known: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    found = np.full((len(marked), max([1, *(len(m.classes) for m in marked)]), 5), -1, np.float32)
    for row, m in zip(found, marked, strict=True):
        if len(m.classes):
            row[: len(m.classes), :4] = m.boxes
            row[: len(m.classes), 4] = [known[name] for name in m.classes]
    return found


def texts(place: str, endings: tuple[str, ...]) -> dict[str, bytes]:
    """Contents by name of the files with these endings in a folder or a tar archive.

    Raises:
      UserError: there is no such place.
    """
    path = pathlib.Path(place).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.endswith(endings) and p.is_file())
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive if m.isfile() and m.name.endswith(endings)]
            return {m.name.removeprefix("./"): _read(archive, m) for m in sorted(members, key=lambda m: m.name)}
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{place} is neither a folder nor a tar archive that can be read ({error}).") from error


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""
