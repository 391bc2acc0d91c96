"""mIoU of the method's own segmentation, of each domain where a run adapts to another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.evals.context import Context, Network
from ssl_jax.evals.maps import cut, names_of, needs_masks
from ssl_jax.evals.segmentation import results, show
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "own segmentation", frozenset({"mask", "test images"}), True, False
FEATURES = False

_BLOCK = 16  # images at a time


def measure(context: Context) -> list[Result]:
    """mIoU, IoU of each class, and accuracy over the pixels of the test images, where the method answers with masks."""
    needs_masks(context.images, "own_masks")
    names = names_of(context.images)
    train, test = context.images
    (_, train_y), (test_x, test_y) = (cut(d, len(names)) for d in (train, test))
    rows = {"": np.arange(len(test_x))}
    domain = test.fields.get("domain")
    if domain is not None and len(test.card.domains) > 1 and len(domain) == len(test_x):
        target = np.asarray(domain) == len(test.card.domains) - 1
        rows = {"/source": np.flatnonzero(~target), "/target": np.flatnonzero(target)}
    found: list[Result] = []
    shown: dict[str, dict[str, np.ndarray]] = {part: {} for part in rows}
    for of, network in context.networks.items():
        answer = _answers(network, len(names), test_x.shape[1:])
        if answer is None:
            continue
        for part, these in rows.items():
            if len(these):
                masks = shown[part][of] = answer(test_x[these])
                found += results(f"own_masks{part}", of, masks, test_y[these], train_y, names)
    for part, masks_of in shown.items():
        if masks_of:
            title = f"Test images{part.replace('/', ' of the ')}, their masks, and the method's own answers."
            show(context, title, test_x[rows[part]], test_y[rows[part]], masks_of, len(names))
    return found


def _answers(network: Network, classes: int, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function of whole images uint8 [N, H, W, C] to their masks [N, H, W]; None: it has no such segmentation."""
    run, ts = network.run, network.ts
    logits = jax.eval_shape(run.method.segment, ts.params, ts.state, jnp.zeros((1, *shape)))
    if logits is None or logits.shape[-1] != classes:
        return None
    block = -(-_BLOCK // run.mesh.devices.size) * run.mesh.devices.size
    mean, std = (jnp.array(x) for x in (run.eval_view.mean, run.eval_view.std))

    def segment(params, state, images):
        logits = run.method.segment(params, state, (images / 255.0 - mean) / std)
        assert logits is not None
        return logits.argmax(-1).astype(jnp.uint8)

    compiled = jax.jit(segment, out_shardings=dist.shardings(P(), run.mesh))  # every process gets all answers

    def found(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), block):
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * 3)
            laid = dist.lay(padded, run.mesh, P(dist.AXIS))
            parts.append(jax.device_get(compiled(ts.params, ts.state, laid))[: len(part)])
        return np.concatenate(parts)

    return found
