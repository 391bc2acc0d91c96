"""Source "boxes": photographs with boxes of objects, in the layout of COCO, YOLO or PASCAL VOC."""

import posixpath
import re

import numpy as np
from PIL import Image

from ssl_jax.augment.view import IMAGENET_MEAN, IMAGENET_STD
from ssl_jax.data import annotations, places
from ssl_jax.data.annotations import Marked
from ssl_jax.data.dataset import Card, Dataset, Request, check_memory
from ssl_jax.data.decode import decode
from ssl_jax.runtime.errors import UserError

CARD = Card(
    channels=3,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    mirrors=True,
    whole_images=True,
    origin="a folder or archive of the user's own",
)
WANTED = "a folder or .tar file of train/ and val/ (or test/) with photographs and COCO, YOLO or VOC boxes"
SPLITS = {"train": ("train",), "test": ("test", "val")}
PICTURES = (".jpg", ".jpeg", ".png")
GREY = 114  # of the canvas beside an image, YOLO's


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Returns which splits have photographs."""
    names = annotations.texts(places.place("boxes", where, path, WANTED), PICTURES)
    return tuple(s for s, folders in SPLITS.items() if any(n.startswith(f"{f}/") for f in folders for n in names))


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads photographs with their boxes.

    Boxes are found in the first of these that there is: `SPLIT/**/*.json` (COCO), `SPLIT/**/NAME.txt` (YOLO, with
    `classes.txt` at the top, a name a line, or `data.yaml` or `detection_classes.yaml` of lines `NUMBER: NAME`),
    `SPLIT/**/NAME.xml` (VOC).
    Files of masks, in a folder `masks`, are no photographs. Each image is resized so that its long side is
    `request.size`, by default the longest of all, and laid in the upper left corner of a grey square.

    Args:
      where: as `WANTED` says.
      path: the same, where `where` is empty.
      request: which split and how large.

    Returns:
      images `[N, side, side, 3]` without labels, and the field `boxes` float32 `[N, n, 5]`: top, left, bottom, right in
      pixels and the class, -1 where there is none.

    Raises:
      UserError: nothing there, no such split, or a file is damaged.
    """
    place = places.place("boxes", where, path, WANTED)
    files = annotations.texts(place, (*PICTURES, ".json", ".txt", ".xml", ".yaml"))
    folder = next((f for f in SPLITS[request.split] if any(n.startswith(f"{f}/") for n in files)), None)
    if folder is None:
        raise UserError(f"boxes in {place} has no folder {' or '.join(SPLITS[request.split])}/.")
    names = [n for n in files if n.startswith(f"{folder}/") and n.endswith(PICTURES) and "/masks/" not in n]
    pictures = [_picture(n, files[n]) for n in names]
    marked, classes = _marked(place, names, [p.size[::-1] for p in pictures], files)
    side = request.size or max(max(p.size) for p in pictures)
    check_memory((len(pictures), side, side, 3), request.max_gib, place)
    images = np.full((len(pictures), side, side, 3), GREY, np.uint8)
    for row, picture in enumerate(pictures):
        scale = side / max(picture.size)
        width, height = (max(1, round(x * scale)) for x in picture.size)
        images[row, :height, :width] = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
        marked[row] = marked[row]._replace(boxes=marked[row].boxes * scale)
    card = Card(**{**vars(CARD), "box_classes": classes})
    fields = {"boxes": annotations.array(marked, classes)}
    return Dataset("boxes", images, np.full(len(images), -1, np.int32), (), fields, card)


def _picture(name: str, content: bytes) -> Image.Image:
    try:
        return Image.fromarray(decode(content).squeeze()).convert("RGB")
    except Exception as error:  # whatever Pillow meets in a damaged file
        raise UserError(f"{name} cannot be read ({error}): fetch it again.") from error


def _marked(
    place: str, names: list[str], sizes: list[tuple[int, int]], files: dict[str, bytes]
) -> tuple[list[Marked], tuple[str, ...]]:
    """Objects of each photograph, and the names of the classes."""
    folder = names[0].partition("/")[0] + "/"
    texts = {n: files[n].decode() for n in files if n.startswith(folder) and n.endswith((".json", ".txt", ".xml"))}
    if table := next((n for n in texts if n.endswith(".json")), None):
        by_file, classes = annotations.coco(texts[table], table)
        by_base = {posixpath.basename(n): m for n, m in by_file.items()}
        return [by_base.get(posixpath.basename(n), Marked(np.zeros((0, 4)), ())) for n in names], classes
    stems = {posixpath.splitext(posixpath.basename(n))[0]: n for n in texts}
    own = [stems.get(posixpath.splitext(posixpath.basename(n))[0]) for n in names]
    if not any(own):
        raise UserError(f"There are no boxes in {place}/{folder}: no .json, .txt or .xml file beside the photographs.")
    if any(n and n.endswith(".txt") for n in own):
        classes = _classes(place, files)
        return [
            annotations.yolo(texts[n] if n else "", classes, size, n or "") for n, size in zip(own, sizes, strict=True)
        ], classes
    marked = [annotations.voc(texts[n], n) if n else Marked(np.zeros((0, 4)), ()) for n in own]
    # The classes of all splits, so that their numbers are the same in each.
    everywhere = [annotations.voc(files[n].decode(), n) for n in files if n.endswith(".xml")]
    return marked, tuple(sorted({name for m in everywhere for name in m.classes}))


def _classes(place: str, files: dict[str, bytes]) -> tuple[str, ...]:
    """Names of YOLO's classes."""
    if "classes.txt" in files:
        return tuple(line.strip() for line in files["classes.txt"].decode().splitlines() if line.strip())
    for name in files:
        if "/" not in name and name.endswith(".yaml"):
            found = re.findall(r"^ +\d+: *['\"]?(.+?)['\"]? *$", files[name].decode(), re.MULTILINE)
            if found and name in ("data.yaml", "detection_classes.yaml"):
                return tuple(found)
    raise UserError(f"The boxes in {place} have numbers for classes: put classes.txt there, with a name a line.")
