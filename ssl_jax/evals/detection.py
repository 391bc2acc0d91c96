"""Detection: CenterNet's head on a backbone, frozen and fine-tuned. Average precision as COCO and VOC have it."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.targets import Field
from ssl_jax.evals import dense, heads, pictures
from ssl_jax.evals.context import Context, Network
from ssl_jax.evals.maps import strided
from ssl_jax.metrics import centernet, detection
from ssl_jax.models.dense_heads import CenterNetHead
from ssl_jax.weights.answers import Boxes
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "detection", frozenset({"boxes", "test images"}), False, False
FEATURES = False
OPTIONS = {"detection_width": 256}  # channels of the deconvolutions of CenterNet's head

STRIDE = 4  # of the heat map, pixels
AREA = (0.25, 1.0)  # share of the image's area that a crop covers
MOST = 100  # detections of an image
SHOWN = 0.3  # score of a detection that a picture shows


def measure(context: Context) -> list[Result]:
    """Average precision of each backbone, frozen and trained with the head, on the test and the training images."""
    heads.in_memory(context.images, "detection", frozenset({"boxes"}))
    count = 1 + int(max(d.fields["boxes"][..., 4].max() for d in context.images))
    names = context.images[0].card.box_classes or tuple(map(str, range(count)))
    classes = len(names)
    found, boxes = [], {}
    for of, network in context.networks.items():
        network = strided(network, context.config.eval.output_stride)
        for kind in ("frozen", "tuned"):
            results, boxes[f"{of}, {kind}"] = _measured(context, network, of, kind, names)
            found += results
    test = context.images[1]
    rows = pictures.shown(len(test))
    columns = {"truth": _drawn(test.images, rows, _true(np.asarray(test.fields["boxes"])), classes)}
    columns |= {name: _drawn(test.images, rows, these, classes) for name, these in boxes.items()}
    title = f"Test images with their boxes, and with those that each head found with a score of {SHOWN} at least."
    context.pictures.append(pictures.beside(title, columns))
    return found


def _drawn(images: np.ndarray, rows: np.ndarray, boxes: detection.Boxes, classes: int) -> np.ndarray:
    """Some images with their boxes."""
    found = []
    for row in rows:
        these = (boxes.image == row) & (boxes.score >= SHOWN)
        found.append(pictures.boxed(images[row], np.c_[boxes.box[these], boxes.kind[these]], classes))
    return np.stack(found)


def _measured(
    context: Context, network: Network, of: str, kind: str, names: Sequence[str]
) -> tuple[list[Result], detection.Boxes]:
    """What was found of a backbone and a head, and the detections in the test images; `names` are the classes'."""
    classes = len(names)
    train, test = context.images
    options = context.config.eval
    view = dense.view(context, network, train.images, crop="torch", area=AREA, ratio=(1.0, 1.0))
    x = jax.ShapeDtypeStruct((1, view.size, view.size, train.images.shape[-1]), jnp.float32)
    side = jax.eval_shape(lambda v, x: network.run.method.encode(v, x)[0].map, network.variables, x).shape[1]
    doublings = max(round(np.log2(view.size / side / STRIDE)), 0)
    stride = view.size / (side * 2**doublings)

    def loss(answer: tuple[jax.Array, ...], fields: Mapping[str, jax.Array]) -> jax.Array:
        boxes = jnp.concatenate([fields["boxes"][..., :4] / stride, fields["boxes"][..., 4:]], -1)
        height, width = answer[0].shape[1:3]
        wanted = jax.vmap(lambda b: centernet.targets(b, (height, width), classes))(boxes)
        return centernet.loss(centernet.Answer(*answer), wanted)

    head = CenterNetHead(classes, doublings, options.detection_width)
    task = heads.Task(head, loss, heads.last_map, {"boxes": Field("boxes", "view", "boxes")})
    fit = dense.trainer(context, network, task, view, kind == "tuned")
    true = [np.asarray(d.fields["boxes"]) for d in (train, test)]
    trained = fit(train.images, {"boxes": true[0]}, options.dense_iterations, context.config.seed)
    if of == "pretrained":
        answer = Boxes(tuple(names), stride)
        size = (test.images.shape[1], test.images.shape[2])
        dense.keep(context, f"detection/{kind}", network, head, trained, answer, tuned=kind == "tuned", size=size)
    boxes = [_found(centernet.Answer(*fit.answers(trained, d.images)), stride) for d in (train, test)]
    own, scores = (detection.scores(these, _true(those)) for these, those in zip(boxes, true, strict=True))
    results = [
        Result(f"detection/{kind}/{name}", value, of, detail=name in ("ap75", "voc07", "voc"))
        for name, value in scores._asdict().items()
    ]
    return [*results, Result(f"detection/{kind}/train_ap50", own.ap50, of, detail=True)], boxes[1]


def _found(answer: centernet.Answer, stride: float) -> detection.Boxes:
    """Detections in pixels of the images."""
    boxes, scores = jax.device_get(jax.jit(lambda a: centernet.decode(a, MOST))(answer))
    flat = boxes.reshape(-1, 5)
    image = np.repeat(np.arange(len(boxes)), boxes.shape[1])
    return detection.Boxes(image, flat[:, 4].astype(int), flat[:, :4] * stride, scores.reshape(-1))


def _true(boxes: np.ndarray) -> detection.Boxes:
    """The boxes [N, n, 5] that are there."""
    image, row = np.nonzero(boxes[..., 4] >= 0)
    there = boxes[image, row]
    return detection.Boxes(image, there[:, 4].astype(int), there[:, :4].astype(float), np.ones(len(there)))
