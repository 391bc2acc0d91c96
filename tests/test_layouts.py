"""Checkpoints of other projects under their own names, built from the fixtures that torch made."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from test_weights import TORCH, stored

import ssl_jax
from ssl_jax import export
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import SIZES
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import layouts, onnx_graph, torch_import, torch_names

pytestmark = pytest.mark.fast
RESNETS = [name for name in TORCH if "resnet" in name]


def hf_resnet(state):
    """As transformers' ResNetModel calls them."""
    found = {}
    for name, x in state.items():
        name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
        name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
        match = re.match(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.*)", name)
        if match:
            stage, block, kind, number, rest = match.groups()
            where = f"encoder.stages.{int(stage) - 1}.layers.{block}"
            if kind == "downsample.":
                name = f"{where}.shortcut.{('convolution', 'normalization')[int(number)]}.{rest}"
            else:
                what = {"conv": "convolution", "bn": "normalization"}[kind]
                name = f"{where}.layer.{int(number) - 1}.{what}.{rest}"
        found[name] = x
    return found


def hf_vit(state):
    """As transformers' ViTModel calls them."""
    found = {}
    for name, x in state.items():
        if ".attn.qkv." in name:
            block, kind = name.split(".")[1], name.rpartition(".")[2]
            for part, value in zip(("query", "key", "value"), np.split(x, 3), strict=True):
                found[f"encoder.layer.{block}.attention.attention.{part}.{kind}"] = value
            continue
        for ours, theirs in (
            (r"^cls_token$", "embeddings.cls_token"),
            (r"^pos_embed$", "embeddings.position_embeddings"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
            (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
            (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
            (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
            (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
            (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
            (r"^norm\.", "layernorm."),
        ):
            name = re.sub(ours, theirs, name)
        found[name] = x
    return found


def sequential(state, start):
    """As nn.Sequential(*children) calls them; the stages begin at a number."""
    parts = {"conv1": "0", "bn1": "1"} | {f"layer{i + 1}": str(start + i) for i in range(4)}
    split = ((name.partition("."), x) for name, x in state.items())
    return {f"{parts.get(first, first)}.{rest}": x for (first, _, rest), x in split}


def brought(tmp_path, state, arch, **options):
    np.savez(tmp_path / "theirs.npz", **state)
    return torch_import.backbone(tmp_path / "theirs.npz", arch, {}, **options)[0]


def same(backbone, state):
    wanted = torch_names.from_torch(state, backbone.module)
    for found, right in zip((backbone.params, backbone.stats), wanted, strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, right)


@pytest.mark.parametrize("prefix", ["", "resnet."])
@pytest.mark.parametrize("name", RESNETS)
def test_hugging_faces_resnet(tmp_path, name, prefix):
    state, _, _ = stored(name)
    theirs = {prefix + k: x for k, x in hf_resnet(state).items()}
    same(brought(tmp_path, theirs | {"classifier.1.weight": np.ones(2)}, TORCH[name][0]), state)


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_hugging_faces_vit(tmp_path, monkeypatch, prefix):
    monkeypatch.setitem(SIZES, "vit_test", (16, 2, 2))
    state, _, _ = stored("timm_vit")
    theirs = {prefix + k: x for k, x in hf_vit(state).items()}
    assert any("query" in k for k in theirs) and layouts.usual(theirs).keys() == {prefix + k for k in state}
    same(brought(tmp_path, theirs, TORCH["timm_vit"][0]), state)


@pytest.mark.parametrize("start", [4, 2])
@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone."])
def test_lightlys_sequential(tmp_path, start, prefix):
    state, _, _ = stored(RESNETS[0])
    theirs = {prefix + k: x for k, x in sequential(state, start).items()}
    same(brought(tmp_path, theirs, TORCH[RESNETS[0]][0]), state)


@pytest.mark.parametrize(
    ("wanted", "follower"),
    [
        ("backbone.", "momentum_backbone."),  # solo-learn
        ("backbone.", "backbone_momentum."),  # lightly
        ("encoder_q.0.", "encoder_k.0."),  # mmselfsup, MoCo
        ("backbone.", "encoder_k.0."),  # mmselfsup 1
        ("online_encoder.net.", "target_encoder.net."),  # byol-pytorch
    ],
)
def test_the_network_that_is_trained_and_not_the_one_that_follows(tmp_path, wanted, follower):
    state, _, _ = stored(RESNETS[0])
    theirs = {wanted + k: x for k, x in state.items()} | {follower + k: x + 1 for k, x in state.items()}
    arch = TORCH[RESNETS[0]][0]
    same(brought(tmp_path, theirs, arch), state)
    follows = brought(tmp_path, theirs, arch, prefix=follower.rstrip("."))
    same(follows, {k: x + 1 for k, x in state.items()})


def test_which_of_several_is_said_by_the_user(tmp_path, capsys):
    state, _, _ = stored(RESNETS[0])
    theirs = {f"{name}.{k}": x for name in ("first", "second") for k, x in state.items()}
    with pytest.raises(UserError, match=r"several \(first\., second\.\): name it with --prefix"):
        brought(tmp_path, theirs, "resnet18")
    with pytest.raises(UserError, match="none"):
        brought(tmp_path, theirs, "resnet18", prefix="third")
    arguments = [f"--import={tmp_path}/theirs.npz", "--arch=resnet18", "--prefix=second", f"--out={tmp_path}/o.npz"]
    assert export.main([*arguments, "--size=32"]) == 0
    assert ssl_jax.load_backbone(str(tmp_path / "o.npz")).origin["prefix"] == "second."


@pytest.mark.parametrize("channels", [1, 4])
def test_a_first_layer_of_other_channels_wants_to_know_their_mean(tmp_path, channels):
    module = ResNet("resnet18", 4, "imagenet")
    made = module.init(jax.random.key(0), jnp.zeros((1, 64, 64, channels)), train=False)
    state = torch_names.to_torch(made["params"], made["batch_stats"], module, "torchvision", 64)
    np.savez(tmp_path / "w.npz", **state)
    arguments = [f"--import={tmp_path}/w.npz", "--arch=resnet18", f"--out={tmp_path}/o.npz", "--size=64"]
    assert export.main(arguments) == 2 and not (tmp_path / "o.npz").exists()
    assert export.main([*arguments, "--mean=.5", "--std=.2"]) == 0
    images = np.zeros((2, 70, 70, channels), np.uint8)
    assert ssl_jax.load_backbone(str(tmp_path / "o.npz"))(images).shape == (2, 32)


def test_what_gives_no_numbers_is_not_written(tmp_path):
    state, _, _ = stored(RESNETS[0])
    (tmp_path / "o.npz").write_bytes(b"old")
    np.savez(tmp_path / "w.npz", **{k: np.full_like(x, np.nan) if k == "conv1.weight" else x for k, x in state.items()})
    with pytest.raises(UserError, match="is not written"):
        export.bring_in(str(tmp_path / "w.npz"), "resnet18", str(tmp_path / "o.npz"), {"size": 32})
    assert (tmp_path / "o.npz").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


def transformer(**changes):
    """A state dict of timm's names without class token (I-JEPA), or with the norm behind the mean (fine-tuned MAE)."""
    state, images, _ = stored("timm_vit")
    return {name: x for name, x in (state | changes).items() if x is not None}, images


def by_hand(state, images, class_token, late_norm):
    """Features by numpy alone: 2 blocks, 2 heads, patches of the kernel's side."""
    x = {k: np.asarray(v, np.float64) for k, v in state.items()}
    kernel = x["patch_embed.proj.weight"]
    p, n = kernel.shape[-1], len(images)
    side = images.shape[1] // p
    cut = images.reshape(n, side, p, side, p, 3).transpose(0, 1, 3, 5, 2, 4).reshape(n, side * side, -1)
    t = cut @ kernel.reshape(len(kernel), -1).T + x["patch_embed.proj.bias"]
    if class_token:
        t = np.concatenate([np.broadcast_to(x["cls_token"], (n, 1, t.shape[-1])), t], 1)
    t = t + x["pos_embed"]

    def norm(y, name):
        y = y - y.mean(-1, keepdims=True)
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * x[f"{name}.weight"] + x[f"{name}.bias"]

    def linear(y, name):
        return y @ x[f"{name}.weight"].T + x[f"{name}.bias"]

    for i in range(2):
        b = f"blocks.{i}"
        q, k, v = (
            linear(norm(t, f"{b}.norm1"), f"{b}.attn.qkv").reshape(n, len(t[0]), 3, 2, -1).transpose(2, 0, 3, 1, 4)
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = (scores / scores.sum(-1, keepdims=True)) @ v
        t = t + linear(y.transpose(0, 2, 1, 3).reshape(t.shape), f"{b}.attn.proj")
        y = linear(norm(t, f"{b}.norm2"), f"{b}.mlp.fc1")
        y = y * 0.5 * (1 + scipy.special.erf(y / np.sqrt(2)))
        t = t + linear(y, f"{b}.mlp.fc2")
    t = t[:, 1:] if class_token else t
    return norm(t.mean(1), "fc_norm") if late_norm else norm(t, "norm").mean(1)


@pytest.mark.parametrize("kind", ["I-JEPA", "fine-tuned MAE"])
def test_features_that_are_a_mean_over_the_patches(tmp_path, monkeypatch, kind):
    """Against the formulas in numpy; then exported under timm's names and as ONNX, which are run."""
    monkeypatch.setitem(SIZES, "vit_test", (16, 2, 2))
    state, images = transformer()
    weight, bias, table = state["norm.weight"], state["norm.bias"], state["pos_embed"]
    if kind == "I-JEPA":
        state, _ = transformer(cls_token=None, pos_embed=table[:, 1:])
        theirs = {f"target_encoder.module.{k}": x for k, x in state.items()}
        theirs |= {f"encoder.module.{k}": x + 1 for k, x in state.items()}
        theirs |= {"predictor.module.predictor_embed.weight": np.ones((2, 2))}
    else:
        ones = {"fc_norm.weight": weight + 0.3, "fc_norm.bias": bias - 0.1}
        state, _ = transformer(**{"norm.weight": None, "norm.bias": None}, **ones)
        theirs = {f"model.{k}": x for k, x in state.items()} | {"model.head.weight": np.ones((2, 16))}
    np.savez(tmp_path / "theirs.npz", **theirs)
    size = images.shape[1]
    view = {"size": size, "mean": (0.0,), "std": (1.0,), "centre": 1.0}
    path, dropped = export.bring_in(str(tmp_path / "theirs.npz"), "vit_test", str(tmp_path / "in.npz"), view)
    backbone = ssl_jax.load_backbone(path)
    wanted = by_hand(state, images, kind != "I-JEPA", kind != "I-JEPA")
    np.testing.assert_allclose(backbone.bare(images), wanted, rtol=1e-3, atol=1e-4)
    assert all(("target_encoder" not in name and "blocks" not in name) or "encoder.module" in name for name in dropped)
    for layout, ending in (("timm", "safetensors"), ("onnx", "onnx")):
        out = export.export(str(path), layout, str(tmp_path / f"out_{layout}.{ending}"))
        if layout == "timm":
            np.testing.assert_allclose(ssl_jax.load_backbone(out).bare(images), wanted, rtol=1e-3, atol=1e-4)
            assert f"fc_norm={kind != 'I-JEPA'}" in export.card_of(out).read_text()
    with pytest.raises(UserError, match="torchvision's transformers have a class token"):
        export.export(str(path), "torchvision", str(tmp_path / "x.safetensors"))


def test_an_onnx_file_that_gives_other_features_is_not_written(tmp_path, monkeypatch):
    state, _, _ = stored(RESNETS[0])
    np.savez(tmp_path / "theirs.npz", **state)
    path, _ = export.bring_in(
        str(tmp_path / "theirs.npz"), TORCH[RESNETS[0]][0], str(tmp_path / "in.npz"), {"size": 32}
    )
    right = onnx_graph.features
    monkeypatch.setattr(onnx_graph, "features", lambda content, images: 1 + right(content, images))
    with pytest.raises(UserError, match="is not written, since what can be stored"):
        export.export(str(path), "onnx", str(tmp_path / "b.onnx"))
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("view", [{"size": 0}, {"centre": 0.0}, {"centre": 2.0}, {"std": (0.2, 0.0, 0.2)}])
def test_a_view_that_is_none_is_refused(tmp_path, view):
    state, _, _ = stored(RESNETS[0])
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(UserError, match="is no view of an image"):
        export.bring_in(str(tmp_path / "w.npz"), "resnet18", str(tmp_path / "o.npz"), view)
