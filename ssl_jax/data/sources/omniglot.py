"""Source "omniglot": characters of many alphabets, each drawn by twenty people (Lake et al. 2015).

"omniglot:rotated" has every character four times, upright and turned by 90, 180 and 270 degrees, as classes of their
own: the protocol of few-shot learning since Vinyals et al. 2016 (matching networks, sec. 4.1.1).
"""

import dataclasses
import pathlib

import numpy as np
from PIL import Image

from ssl_jax.data import places
from ssl_jax.data.arrays import read_npz, requested
from ssl_jax.data.dataset import Card, Dataset, Request, check_memory
from ssl_jax.runtime.errors import UserError

_SIDE, _DRAWN = 28, 105  # of the images and of the drawings, pixels
CARD = Card(
    side=_SIDE,
    channels=1,
    classes=242,
    count=2720,
    test_count=2120,
    mean=(0.0763,),
    std=(0.2133,),
    mirrors=False,
    new_classes=True,
    licence="MIT",
    origin="Lake et al. 2015, https://github.com/brendenlake/omniglot; the two small sets of five alphabets each",
)
ROTATED = "rotated"
_TURNS = 4
CARDS = {
    ROTATED: dataclasses.replace(
        CARD,
        **{name: _TURNS * getattr(CARD, name) for name in ("classes", "count", "test_count")},
        origin=f"{CARD.origin}; every turn by 90 degrees is a class of its own (Vinyals et al. 2016)",
    )
}
FILES = ("omniglot_small1.npz", "omniglot_small2.npz")
_KEYS = ("x105_bits", "y", "alphabet", "drawer", "alphabet_names", "character_names")


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits, where the second file is there."""
    return ("train", "test") if len(_files(where, path)) > 1 else ("train",)


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads the characters of the first file, or those of the second file's alphabets that the first lacks.

    So the test images are of new characters of new alphabets, as episodes want them. Both splits have the names of all
    characters, those for training first.

    Args:
      where: folder of omniglot_small1.npz and omniglot_small2.npz, or the first file alone, which has no test split; or
        "rotated", for characters in all four turns.
      path: the same, where `where` is empty or "rotated".
      request: which split and how large. Of another size than 28, which is made as the authors of matching networks
        make it (bilinear), the drawings of 105 pixels are resized as all images are.

    Returns:
      images `[N, 28, 28, 1]`, ink 255 on 0; fields `alphabet`, `character` (its number in the alphabet) and `drawer`,
      int32 `[N]`; of "rotated", the field `degrees` as well.

    Raises:
      UserError: a file is not there or is something else, or there is no test split.
    """
    files = _files(where, path)
    if request.split == "test" and len(files) == 1:
        raise UserError(f"omniglot has no test images: there is no {FILES[1]} beside {files[0]}.")
    sets = [read_npz(file, _KEYS) for file in files]
    known = set(sets[0]["alphabet_names"].tolist())
    characters, alphabets = [], []
    for number, arrays in enumerate(sets):
        fresh = [name for name in arrays["character_names"].tolist() if number == 0 or _alphabet(name) not in known]
        characters.append(fresh)
        alphabets += sorted({_alphabet(name) for name in fresh})
    own = ("train", "test").index(request.split)
    arrays, names = sets[own], np.array(characters[own])
    drawn = arrays["character_names"][arrays["y"]]  # name of the character of each drawing
    rows = np.flatnonzero(np.isin(drawn, names))
    classes = tuple(characters[0] + (characters[1] if len(sets) > 1 else []))
    label = {name: number for number, name in enumerate(classes)}
    fields = {
        "alphabet": np.array([alphabets.index(_alphabet(name)) for name in drawn[rows]], np.int32),
        "character": np.array(
            [int(name.removeprefix(f"{_alphabet(name)}/character")) for name in drawn[rows]], np.int32
        ),
        "drawer": arrays["drawer"][rows].astype(np.int32),
    }
    labels = np.array([label[name] for name in drawn[rows].tolist()], np.int32)
    ink = np.unpackbits(arrays["x105_bits"][rows], axis=-1)[:, : _DRAWN**2].reshape(-1, _DRAWN, _DRAWN) * np.uint8(255)
    images = ink if request.size not in (None, _SIDE) else _small(ink)
    found = requested(Dataset("omniglot", images[..., None], labels, classes, fields, CARD), request)
    return _rotated(found, request.max_gib) if where == ROTATED else found


def _rotated(d: Dataset, max_gib: float) -> Dataset:
    """Every image in all four turns; the classes that one character becomes are neighbours."""
    check_memory((_TURNS * len(d), *d.image_shape), max_gib, f"omniglot:{ROTATED}")
    images = np.concatenate([np.rot90(d.images, turn, (1, 2)) for turn in range(_TURNS)])
    turns = np.repeat(np.arange(_TURNS, dtype=np.int32), len(d))
    fields = {name: np.tile(np.asarray(values), _TURNS) for name, values in d.fields.items()} | {"degrees": 90 * turns}
    classes = tuple(f"{name}/{90 * turn}" for name in d.classes for turn in range(_TURNS))
    labels = _TURNS * np.tile(d.labels, _TURNS) + turns
    return Dataset(f"omniglot:{ROTATED}", images, labels, classes, fields, CARDS[ROTATED])


def _small(ink: np.ndarray) -> np.ndarray:
    how = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(drawing).resize((_SIDE, _SIDE), how)) for drawing in ink])


def _alphabet(character: str) -> str:
    return character.partition("/")[0]


def _files(where: str, path: str | None) -> list[pathlib.Path]:
    """Returns the first file, and the second where both lie in the folder that the user names."""
    where = "" if where == ROTATED else where
    first = places.find("omniglot", where, path, FILES[0])
    second = first.with_name(FILES[1])
    alone = pathlib.Path(where or path or "").expanduser().is_file()
    return [first] if alone or not second.is_file() else [first, second]
