"""Heads of dense prediction as graphs: other programs get the numbers that were evaluated."""

import dataclasses

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_dense import described
from test_weights import fresh
import tiny

from ssl_jax import data, evaluate, export, weights
from ssl_jax.augment.view import View
from ssl_jax.evals import boundaries, context, depth, detection, normals, segmentation_heads
from ssl_jax.metrics import boundaries as boundary_metrics
from ssl_jax.metrics import depth as depth_metrics
from ssl_jax.metrics import normals as normal_metrics
from ssl_jax.metrics import segmentation
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.dense_heads import CenterNetHead, FCNHead, LinearHead
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.models.vit_pooled import PooledViT
from ssl_jax.models.vit_rotary import RotaryViT
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import answers, dense_head, onnx_graph
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.fingerprint import fingerprint

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_device", "quick_compilation")


@pytest.fixture(autouse=True)
def a_tiny_transformer(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_test", (16, 2, 2))


@pytest.fixture(scope="module")
def rooms():
    train = data.load("scenes:4", "train", size=64)
    return train, train[np.arange(6)]


@pytest.fixture(scope="module")
def run():
    return tiny.run("rotation", **{"data.source": "photo_tiles", "model.name": "convnet", "model.width": 8})


def graph_outputs(backbone, head, images):
    return onnx_graph.outputs(head.model(backbone).SerializeToString(), images)


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert found[name].shape == x.shape
        np.testing.assert_allclose(found[name], x, rtol=2e-4, atol=2e-4 * np.abs(x).max())


def miou(found, fields):
    counts = segmentation.confusion(fields["mask"], found["logits"].argmax(1), 4)
    return {"miou": segmentation.scores(counts).miou}


def of_depth(found, fields):
    return depth_metrics.scores(found["depth"], fields["depth"])._asdict()


def of_normals(found, fields):
    return normal_metrics.scores(np.moveaxis(found["normals"], 1, -1), fields["normals"])._asdict()


def of_boundaries(found, fields):
    return {"average_precision": boundary_metrics.average_precision(found["boundary"], fields["boundary"])}


@pytest.mark.parametrize(
    ("module", "kind", "measured", "settings"),
    [
        (segmentation_heads, "fcn_tuned", miou, {}),
        (depth, "linear", of_depth, {}),
        (depth, "fcn", of_depth, {"depth_answer": "bins"}),
        (normals, "linear_tuned", of_normals, {}),
        (boundaries, "linear", of_boundaries, {}),
    ],
)
def test_the_graph_of_an_evaluations_head_scores_as_the_evaluation_says(
    run, rooms, tmp_path, module, kind, measured, settings
):
    """The graph runs on the test images; its file has been through the workdir."""
    what = described(run, rooms, dense_iterations=4, dense_heads=kind, **settings)
    results = {result.name: result.value for result in module.measure(what)}
    (name,) = dense_head.store(str(tmp_path), "key", what.heads).values()
    head = dense_head.load(epath.Path(tmp_path) / name)
    assert (head.backbone is not None) == kind.endswith("tuned") and head.name.endswith(f"/{kind}")
    network = what.networks["pretrained"]
    variables = jax.device_get(network.variables)
    view = run.method.eval_view(1.0)
    backbone = weights.Backbone(run.method, variables["params"], variables["batch_stats"], view, {})
    images = ((rooms[1].images / 255 - np.array(view.mean)) / np.array(view.std)).astype(np.float32)
    scores = measured(graph_outputs(backbone, head, images), rooms[1].fields)
    for measure, value in scores.items():
        assert value == pytest.approx(results[f"{head.name}/{measure}"], rel=2e-3, abs=1e-4)
    with pytest.raises(UserError, match="was trained on other weights than these"):
        other = jax.tree.map(lambda x: x + 1, backbone.params)
        head.model(dataclasses.replace(backbone, params=other))


def test_detections_of_the_graph_are_the_evaluations(run, rooms, monkeypatch):
    """The boxes that are decoded from the graph's maps, against those that the evaluation scored."""
    scored = []
    own = detection._found
    monkeypatch.setattr(detection, "_found", lambda *a: scored.append((own(*a), a)) or scored[-1][0])
    what = described(run, rooms, dense_iterations=20, detection_width=16)
    detection.measure(what)
    frozen, tuned = what.heads
    assert frozen.backbone is None and tuned.backbone is not None and tuned.answer.names == ("box", "sphere")
    variables, view = jax.device_get(what.networks["pretrained"].variables), run.method.eval_view(1.0)
    backbone = weights.Backbone(run.method, variables["params"], variables["batch_stats"], view, {})
    images = ((rooms[1].images / 255 - np.array(view.mean)) / np.array(view.std)).astype(np.float32)
    for head, number in ((frozen, 1), (tuned, 3)):  # behind the training images
        found = graph_outputs(backbone, head, images)
        answer, stride = scored[number][1]
        assert head.answer.stride == stride
        wanted = {"heat": jax.nn.sigmoid(answer.heat), "size": answer.size * stride, "offset": answer.offset}
        close(found, {name: np.moveaxis(np.asarray(x), -1, 1) for name, x in wanted.items()})


BACKBONES = {
    "convnet": ConvNet(4),
    "dilated": ResNet("resnet18", 4, "imagenet", output_stride=8),
    "bottleneck": ResNet("resnet50", 4, "small", output_stride=4),
    "class token": ViT("vit_test", 8, registers=2),
    "sincos": ViT("vit_test", 8, positions="sincos"),
    "pooled": PooledViT("vit_test", 8, class_token=False),
    "rotary": RotaryViT("vit_test", 8),
}


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("every_stage", [False, True])
def test_every_backbone_gives_its_maps(kind, every_stage):
    """Of images that are no squares, and where it can also of another size than the head's."""
    module = BACKBONES[kind]
    rng = np.random.default_rng(0)

    backbone = fresh(module.clone(output_stride=0) if hasattr(module, "output_stride") else module, 32)
    stages = tuple(range(1, module.stages + 1)) if every_stage else ()
    x = jnp.zeros((1, 32, 32, 3))
    seen = (backbone.method.encode(backbone.variables, x, stage=s)[0] for s in stages or (module.stages,))
    width = sum(encoded.map.shape[-1] for encoded in seen)
    for layer, answer in (
        (FCNHead(3, 5, 2), answers.Classes(("a", "b", "c"))),
        (LinearHead(3), answers.Normals()),
        (CenterNetHead(2, 1, 6, 4), answers.Boxes(("a", "b"), 4.0)),
    ):
        made = layer.init(jax.random.key(1), jnp.zeros((1, 4, 4, width)), train=False)
        of_head = jax.tree.map(lambda x: (x + 0.1 * rng.uniform(-0.5, 1, x.shape)).astype(np.float32), made)
        head = dense_head.DenseHead(
            "x/y",
            layer,
            of_head,
            answer,
            fingerprint(backbone.variables),
            None,
            (32, 64),
            "d",
            stages,
            getattr(module, "output_stride", 0),
        )
        for size in ((32, 64), *(() if module.fixed_size else ((96, 32),))):
            images = rng.normal(size=(2, *size, 3)).astype(np.float32)
            close(graph_outputs(backbone, head, images), head.outputs(backbone, images))


def test_a_head_is_exported_from_the_command_line(tmp_path, capsys):
    changes = {"batch_size": 4, "data.source": "scenes:4", "data.size": 64, "model.name": "convnet", "model.width": 8}
    config = tiny.config("rotation", **changes)
    run = tiny.run("rotation", **changes)
    (tmp_path / "config.json").write_text(config.to_json())
    state = run.init()

    def save(step, ts):
        checkpoints = Checkpoints(tmp_path, 1)
        checkpoints.save(step, ts, {})
        checkpoints.close()

    save(7, state)
    flags = ["--evals=depth", "--config.eval.dense_iterations=2", "--config.eval.dense_heads=linear"]
    assert evaluate.main([str(tmp_path), *flags]) == 0
    assert export.main([str(tmp_path), "--head=depth/linear"]) == 0
    text = (tmp_path / "depth_linear.onnx.md").read_text()
    for words in ("| depth/linear/rmse |", "64x64 pixels", "`depth` [N, H, W]", "(depth,) = session.run", "FILL IN"):
        assert words in text
    view = run.method.eval_view(1.0)
    assert str(list(view.mean)) in text
    content, images = (tmp_path / "depth_linear.onnx").read_bytes(), np.zeros((1, 64, 64, 3), np.float32)
    assert onnx_graph.outputs(content, images)["depth"].shape == (1, 64, 64)
    file = next((tmp_path / "heads").glob("*.npz"))
    assert export.main([str(tmp_path), f"--head={file}", f"--out={tmp_path / 'b.onnx'}"]) == 0
    assert (tmp_path / "b.onnx").read_bytes() == content
    capsys.readouterr()
    assert export.main([str(tmp_path), "--head=depth/fcn"]) == 2
    assert export.main([str(tmp_path), "--head=depth/linear", "--format=npz"]) == 2
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    assert export.main([str(tmp_path), f"--head={tmp_path / 'other.npz'}"]) == 2
    save(8, state.replace(params=jax.tree.map(lambda x: x + 1, state.params)))
    assert export.main([str(tmp_path), "--head=depth/linear"]) == 2
    told = capsys.readouterr().err
    for words in ("it has depth/linear", "drop --format", "no head that an evaluation stored", "evaluate again"):
        assert words in told


def test_a_method_that_changes_images_is_refused():
    backbone = weights.Backbone(tiny.run("colorization").method, {}, {}, View(size=32), {})
    head = dense_head.DenseHead(
        "x/y", LinearHead(3), {}, answers.Normals(), fingerprint(backbone.variables), None, (32, 32), "d"
    )
    with pytest.raises(UserError, match="Colorization changes images before the network sees them"):
        head.model(backbone)
    assert context.Context({}, (None, None), None).heads == []
