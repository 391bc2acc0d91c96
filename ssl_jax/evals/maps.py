"""Maps of whole images by the frozen backbone, for evaluations of data with masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.data import Dataset
from ssl_jax.evals.context import Images, Network
from ssl_jax.metrics.segmentation import IGNORE
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError

MAX_IMAGES = 2000  # of each split, evenly spaced: their maps are held in memory
_MULTIPLE = 16  # sides are cut to a multiple, pixels: strides and patches divide it
_BLOCK = 16  # images at a time


def needs_masks(images: Images, name: str) -> None:
    """Refuses data without masks.

    Raises:
      UserError: naming the evaluation.
    """
    if any(d.streamed or "mask" not in d.fields for d in images):
        raise UserError(
            f"{name} needs images with masks, held in memory, and {images[0].name} is not such data: "
            "leave it out of --evals, or evaluate on other --data."
        )


def names_of(images: Images) -> list[str]:
    """Names of the classes of masks; numbers where the card has none."""
    names = [name.replace(" ", "_") for name in images[0].card.mask_classes]
    if names:
        return names
    masks = (d.fields["mask"] for d in images)
    return [str(i) for i in range(1 + int(max(y[y != IGNORE].max(initial=0) for y in masks)))]


def cut(d: Dataset, classes: int) -> tuple[np.ndarray, np.ndarray]:
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
    return images[part], np.where(masks >= classes, IGNORE, masks).astype(np.uint8)


def strided(network: Network, stride: int) -> Network:
    """The network with a map of another output stride, where its backbone can have one.

    Args:
      network: of a run.
      stride: pixels; 0: as it is.

    Raises:
      UserError: if the backbone has a stride of its own alone.
    """
    method = network.run.method
    if not stride:
        return network
    if not hasattr(method.backbone, "output_stride"):
        raise UserError(
            f"config.eval.output_stride is {stride}, but only a ResNet can have another than its own, and this is a "
            f"{method.backbone.title}: set it to 0."
        )
    method = dataclasses.replace(method, backbone=method.backbone.clone(output_stride=stride))
    return dataclasses.replace(network, run=dataclasses.replace(network.run, method=method))


def maps(network: Network, images: np.ndarray) -> np.ndarray:
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
