"""Source "scenes": rooms with boxes and spheres, covered with photographs, of which everything is known."""

import numpy as np

from ssl_jax.data import scene
from ssl_jax.data.dataset import Card, Dataset, Request, check_memory
from ssl_jax.runtime.errors import UserError

SIDE, TRAIN, TEST = 96, 500, 100  # pixels; scenes of each split, which are seen twice
MOST = 4  # objects of a scene
_DUSK = (0.3, 0.35, 0.5)  # what is left of the light at dusk

CARD = Card(
    side=SIDE,
    channels=3,
    classes=MOST,
    count=2 * TRAIN,
    test_count=2 * TEST,
    mean=(0.2872, 0.3097, 0.2853),
    std=(0.2693, 0.2175, 0.2359),
    mirrors=True,
    mask_classes=("floor", "wall", "box", "sphere"),
    box_classes=("box", "sphere"),
    whole_images=True,
    licence="CC BY 2.0",
    origin="made here, from china.jpg by danielbuechele and flower.jpg by Andy Li, as scikit-learn ships them",
)
BUNDLED = True


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are there."""
    del where, path
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Renders scenes, each from two places: images 2i and 2i + 1 are of one scene.

    Textures of the test scenes come from the right fifth of the photographs, those of the training scenes from the
    rest. The label is the number of objects less one.

    Args:
      where: number of training scenes, of which there are as many test scenes up to `TEST`; '': `TRAIN`. With '-dusk'
        behind it other scenes than without, in little and blue light.
      path: not used.
      request: which split and how large.

    Returns:
      images `[N, side, side, 3]` and the fields `mask` uint8 and `boundary` uint8 (1: an occluding edge) `[N, side,
      side]`, `depth` float32 `[N, side, side]` (metres along the optical axis), `normals` float32 `[N, side, side, 3]`
      (right, down, forward), `boxes` float32 `[N, 4, 5]` (top, left, bottom, right, class; -1 where there is none),
      `clip` int32 `[N]` (the scene) and `motion` float32 `[N, 3]` (metres to the right and forward and radians to the
      right that the camera moves until the other image of its scene, seen from this one).

    Raises:
      UserError: `where` is no number.
    """
    del path
    number, dash, hour = where.partition("-")
    if (number and not (number.isdecimal() and int(number))) or (dash and hour != "dusk"):
        raise UserError(f"scenes:{where} does not say how many: write scenes, scenes:NUMBER or scenes:NUMBER-dusk.")
    count = int(number or TRAIN)
    count = min(count, TEST) if request.split == "test" else count
    side = request.size or SIDE
    check_memory((2 * count, side, side, 3), request.max_gib, "scenes")
    papers = scene.photographs(request.split)
    # Each scene has a stream of its own, so that the first of many are those of few.
    kind = (request.split == "test") + 2 * bool(hour)
    found = [scene.pair(np.random.RandomState([i, kind]), papers, side, MOST) for i in range(count)]
    frames = [frame for both in found for frame in both]
    fields = {name: np.stack([getattr(frame, name) for frame in frames]) for name in scene.FIELDS}
    fields["clip"] = np.repeat(np.arange(count, dtype=np.int32), 2)
    labels = np.array([frame.objects - 1 for frame in frames], np.int32)
    images = np.stack([frame.image for frame in frames])
    if hour:
        images = np.round(images * np.array(_DUSK)).astype(np.uint8)
    classes = tuple(f"{n} object{'s' if n > 1 else ''}" for n in range(1, MOST + 1))
    return Dataset("scenes", images, labels, classes, fields, CARD)
