"""Linear segmentation: a 1x1 convolution on the map of the frozen backbone, for data with masks."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.data import Dataset
from ssl_jax.evals.context import Context, Network
from ssl_jax.metrics import segmentation
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "linear segmentation", frozenset({"mask", "test images"}), True, False
FEATURES = False
OPTIONS = {"segmentation_epochs": 40}  # passes over the training images

MAX_IMAGES = 2000  # of each split, evenly spaced: their maps are held in memory
_MULTIPLE = 16  # sides are cut to a multiple, pixels: strides and patches divide it
_BLOCK = 16  # images at a time


def measure(context: Context) -> list[Result]:
    """mIoU, IoU of each class, and accuracy over the pixels of the test images, for each backbone."""
    if any(d.streamed or "mask" not in d.fields for d in context.images):
        raise UserError(
            f"segmentation needs images with masks, held in memory, and {context.images[0].name} is not such data: "
            "leave it out of --evals, or evaluate on other --data."
        )
    names = [name.replace(" ", "_") for name in context.images[0].card.mask_classes]
    (train_x, train_y), (test_x, test_y) = (_cut(d, len(names)) for d in context.images)
    if not names:
        names = [str(i) for i in range(1 + int(max(y[y != IGNORE].max(initial=0) for y in (train_y, test_y))))]
    options = {"classes": len(names), "epochs": context.config.eval.segmentation_epochs, "seed": context.config.seed}
    most = np.bincount(train_y[train_y != IGNORE]).argmax()  # by chance every pixel is of the most frequent class
    chance = segmentation.scores(segmentation.confusion(test_y, np.full_like(test_y, most), len(names)))
    found = []
    for of, network in context.networks.items():
        probe = segmentation.Probe(_maps(network, train_x), train_y, **options)
        counts = segmentation.confusion(test_y, probe(_maps(network, test_x), test_y.shape[1:]), len(names))
        s = segmentation.scores(counts)
        for measure in ("miou", "pixel_accuracy", "mean_accuracy"):
            found.append(Result(f"segmentation/{measure}", getattr(s, measure), of, chance=getattr(chance, measure)))
        present = [(name, x) for name, x in zip(names, s.iou, strict=True) if not np.isnan(x)]
        found += [Result(f"segmentation/iou/{name}", float(x), of) for name, x in present]
    return found


def _cut(d: Dataset, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks whose sides are multiples, from the middle; what is of no class is `IGNORE`."""
    rows = evenly_spaced(np.arange(len(d)), MAX_IMAGES)
    images, masks = d.images[rows], np.asarray(d.fields["mask"][rows])
    starts, sides = [], []
    for side in images.shape[1:3]:
        kept = side // _MULTIPLE * _MULTIPLE or side
        starts.append((side - kept) // 2)
        sides.append(kept)
    part = (slice(None), *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))
    masks = masks[part]
    return images[part], np.where(masks >= classes, IGNORE, masks).astype(np.uint8) if classes else masks


def _maps(network: Network, images: np.ndarray) -> np.ndarray:
    """Maps float32 [N, h, w, D] of whole images uint8 [N, H, W, C], in their own size.

    Raises:
      UserError: if the backbone has none.
    """
    run, mesh = network.run, network.run.mesh
    block = -(-_BLOCK // mesh.devices.size) * mesh.devices.size
    mean, std = (jnp.array(x) for x in (run.eval_view.mean, run.eval_view.std))

    def encode(variables, images):
        encoded, _ = run.method.encode(variables, (images / 255.0 - mean) / std)
        if encoded.map is None:
            raise UserError(f"The backbone of {run.config.method.name} has no map: leave segmentation out of --evals.")
        return encoded.map.astype(jnp.float32)

    # Every process gets all maps.
    compiled = jax.jit(encode, out_shardings=dist.shardings(jax.sharding.PartitionSpec(), mesh))
    found = []
    for start in range(0, len(images), block):
        part = images[start : start + block]
        padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * 3)
        laid = dist.lay(padded, mesh, jax.sharding.PartitionSpec(dist.AXIS))
        found.append(jax.device_get(compiled(network.variables, laid))[: len(part)])
    return np.concatenate(found)
