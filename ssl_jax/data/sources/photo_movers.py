"""Source "photo_movers": objects that move over photographs, seen by a camera that moves as well."""

import numpy as np
from PIL import Image

from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request

CLIPS, FRAMES, SIDE = 96, 12, 32  # of each photograph; of each clip; pixels

CARD = Card(
    side=SIDE,
    channels=3,
    classes=2,
    count=2 * CLIPS * FRAMES,
    test_count=2 * CLIPS * FRAMES // 4,
    mean=(0.4254, 0.4349, 0.3872),
    std=(0.3724, 0.2954, 0.3154),
    mirrors=True,
    mask_classes=("background", "object"),
    licence="CC BY 2.0",
    origin="china.jpg by danielbuechele and flower.jpg by Andy Li, as scikit-learn ships them",
)
BUNDLED = True


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are there."""
    del where, path
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Makes clips in which a piece of one photograph moves over the other.

    A window moves over the background by up to a pixel a frame, and an ellipse of the other photograph, 8 to 14 pixels
    wide, crosses the window by 1 to 2 pixels a frame more. Clips of the test split have other places and motions. The
    label is the photograph of the background.

    Args:
      where: not used.
      path: not used.
      request: which split and how large.

    Returns:
      images `[N, 32, 32, 3]`; fields `clip` and `mask` uint8 `[N, 32, 32]` (1 is the object).
    """
    from sklearn.datasets import load_sample_images

    del where, path
    test = request.split == "test"
    draw = np.random.RandomState(3 if test else 2)  # a generator whose stream NumPy keeps as it is
    photographs = [_halved(photograph) for photograph in load_sample_images().images]
    images, masks, labels = [], [], []
    for label, background in enumerate(photographs):
        for _ in range(CLIPS // 4 if test else CLIPS):
            frames, shown = _clip(draw, background, photographs[1 - label])
            images.append(frames)
            masks.append(shown)
            labels += [label] * FRAMES
    clip = np.repeat(np.arange(len(images)), FRAMES).astype(np.int32)
    fields = {"clip": clip, "mask": np.concatenate(masks)}
    names = ("temple", "flower")
    found = Dataset("photo_movers", np.concatenate(images), np.array(labels, np.int32), names, fields, CARD)
    return requested(found, request)


def _halved(photograph: np.ndarray) -> np.ndarray:
    height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
    return np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.BOX))


def _clip(draw: np.random.RandomState, background: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, S, S, 3] and masks [T, S, S] of one clip."""
    time = np.arange(FRAMES)[:, None] - (FRAMES - 1) / 2
    camera, object_ = (_velocity(draw, *speeds) for speeds in ((0.0, 1.0), (1.0, 2.0)))
    reach = np.ceil(np.abs(camera) * FRAMES / 2).astype(int) + 1
    middle = [draw.randint(r, side - SIDE - r) for r, side in zip(reach, background.shape, strict=False)]
    corners = np.round(middle + time * camera).astype(int)
    radii = draw.uniform(4, 7, 2)
    centres = SIDE / 2 + draw.uniform(-3, 3, 2) + time * object_
    top, left = (draw.randint(side - 2 * SIDE) for side in other.shape[:2])
    y, x = np.mgrid[:SIDE, :SIDE]
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    for t, ((row, column), centre) in enumerate(zip(corners, np.round(centres).astype(int), strict=True)):
        inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1
        # The piece moves with its pixels: what is seen of it does not depend on where it is.
        rows, columns = (np.clip(place + SIDE - c, 0, 2 * SIDE - 1) for place, c in ((y, centre[0]), (x, centre[1])))
        piece = other[top : top + 2 * SIDE, left : left + 2 * SIDE][rows, columns]
        frames[t] = np.where(inside[..., None], piece, background[row : row + SIDE, column : column + SIDE])
        masks[t] = inside
    return frames, masks


def _velocity(draw: np.random.RandomState, low: float, high: float) -> np.ndarray:
    angle, speed = draw.uniform(0, 2 * np.pi), draw.uniform(low, high)
    return speed * np.array([np.sin(angle), np.cos(angle)])
