"""Masks carried through videos by the likeness of patches, without training: J and F, as DINO measures DAVIS.

The mask of a video's first frame is given. Frames without labels between are not seen by anything that learns, so that
the videos of both splits count. As DAVIS has it, J and F leave out the first and the last frame, and are means over the
videos of means over their frames. Papers use DAVIS 2017 at 480 pixels; sizes are those of the data here.
"""

import numpy as np

from ssl_jax.evals import pictures
from ssl_jax.evals.context import Context
from ssl_jax.evals.maps import cut, maps, names_of, needs_masks, strided
from ssl_jax.metrics import propagation
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "masks carried through videos", frozenset({"mask", "clip", "test images"}), False, False
FEATURES = False
OPTIONS = {"output_stride": 0}  # of a ResNet's map in dense evaluations, pixels; 0: the network's own


def measure(context: Context) -> list[Result]:
    """J and F of each backbone, and of the first mask left where it is."""
    needs_masks(context.images, "propagation")
    if not all("clip" in d.fields for d in context.images):
        raise UserError(f"propagation needs videos, and {context.images[0].name} has none: evaluate on --data=davis.")
    classes = len(names_of(context.images))
    videos = [
        (images[rows], np.where(masks[rows] == IGNORE, 0, masks[rows]))
        for d in context.images
        for images, masks in (cut(d, classes),)
        for rows in _videos(np.asarray(d.fields["clip"]), len(images), d.name)
    ]
    still = _scores([np.broadcast_to(masks[0], masks.shape) for _, masks in videos], videos)
    found, last = [], {}
    for of, network in context.networks.items():
        network = strided(network, context.config.eval.output_stride)
        carried = [propagation.carried(maps(network, images), masks[0], classes) for images, masks in videos]
        last[of] = [masks[-1] for masks in carried]
        scores = _scores(carried, videos)
        found += [Result(f"propagation/{k}", scores[k], of, chance=still[k]) for k in ("jf", "j", "f")]
    _show(context, videos, last, classes)
    return found


def _show(
    context: Context, videos: list[tuple[np.ndarray, np.ndarray]], last: dict[str, list[np.ndarray]], classes: int
) -> None:
    """Shows the first and last frame of some videos, under the true masks and those that were carried to the last."""
    rows = pictures.shown(len(videos))

    def under(frame: int, masks: list[np.ndarray]) -> np.ndarray:
        frames = [videos[row][0][frame] for row in rows]
        return np.stack([_under(x, masks[row], classes) for x, row in zip(frames, rows, strict=True)])

    columns = {"first frame": under(0, [masks[0] for _, masks in videos])}
    columns["last frame"] = under(-1, [masks[-1] for _, masks in videos])
    columns |= {of: under(-1, masks) for of, masks in last.items()}
    context.pictures.append(
        pictures.beside("Videos: the masks that were given, the true last ones, and those carried there.", columns)
    )


def _under(image: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """An image [H, W, C] with the colours of a mask [H, W] over all but class 0."""
    colours = pictures.coloured(mask, classes)
    grey = np.broadcast_to(image.mean(-1, keepdims=True), colours.shape)
    return np.where((mask > 0)[..., None], 0.4 * grey + 0.6 * colours, image).astype(np.uint8)


def _videos(clips: np.ndarray, count: int, name: str) -> list[np.ndarray]:
    """Rows of each video."""
    if count != len(clips):
        raise UserError(f"{name} has too many frames to hold their maps in memory: evaluate on fewer with --data.")
    return [np.flatnonzero(clips == clip) for clip in np.unique(clips)]


def _scores(carried: list[np.ndarray], videos: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """J and F and their mean, over videos and the objects in them."""
    js, fs = [], []
    for found, (_, masks) in zip(carried, videos, strict=True):
        for kind in np.unique(masks[0][masks[0] > 0]):
            pairs = [(f == kind, m == kind) for f, m in zip(found[1:-1], masks[1:-1], strict=True)]
            js.append(np.mean([propagation.region(*pair) for pair in pairs]))
            fs.append(np.mean([propagation.boundary(*pair) for pair in pairs]))
    j, f = float(np.mean(js)), float(np.mean(fs))
    return {"j": j, "f": f, "jf": (j + f) / 2}
