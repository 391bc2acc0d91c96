"""Weights out and in: torch's own features of torch's own weights, names, files, and what a caller may get wrong."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import ssl_jax
from ssl_jax import export, weights
from ssl_jax.augment.render import render_batch
from ssl_jax.augment.view import View
from ssl_jax.evals import external as imported_module
from ssl_jax.evals.features import extractor
from ssl_jax.methods import build
from ssl_jax.methods.contract import Method
from ssl_jax.models.convnet import ConvNet
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.models.vit_rotary import RotaryViT
from ssl_jax.run import prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import onnx_graph, torch_import, torch_names
from ssl_jax.workdir.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")

DATA = pathlib.Path(__file__).parent / "data"
# Fixture: architecture and side of its images. The transformers are smaller than any that there is.
TORCH = {
    "torchvision_resnet18": ("resnet18", 32),
    "torchvision_resnet50_small": ("resnet50", 16),
    "torchvision_vit": ("vit_test", 16),
    "timm_vit": ("vit_test", 16),
}


@pytest.fixture(autouse=True)
def a_tiny_transformer(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_test", (16, 2, 2))


def stored(name):
    """State dict, images [B, H, W, C] and torch's features."""
    with np.load(DATA / f"{name}.npz") as file:
        arrays = dict(file)
    state = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
    return state, arrays["images"].transpose(0, 2, 3, 1), arrays["features"]


def imported(tmp_path, name, prefix="", **beside):
    """The backbone of a fixture, brought in from a file, and what was left behind."""
    state, _, _ = stored(name)
    np.savez(tmp_path / "theirs.npz", **{prefix + k: v for k, v in state.items()}, **beside)
    arch, size = TORCH[name]
    return torch_import.backbone(tmp_path / "theirs.npz", arch, {"size": size})


def features(backbone, images):
    return np.asarray(backbone.method.encode(backbone.variables, jnp.asarray(images))[0].pooled)


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def fresh(module, side=8, channels=3):
    """A backbone whose weights, and statistics too, are random."""
    made = module.init(jax.random.key(0), jnp.zeros((1, side, side, channels)), train=False)
    leaves, tree = jax.tree.flatten(made)
    rng = np.random.default_rng(0)
    draws = [rng.uniform(0.2, 1, x.shape) * rng.choice([-1, 1]) for x in leaves]
    # Matrices as small as trained ones: large ones would show the rounding of float32 and nothing else.
    made = jax.tree.unflatten(tree, [np.float32(x * (0.3 if x.ndim == 2 else 1)) for x in draws])
    stats = jax.tree.map(np.abs, made.get("batch_stats", {}))
    view = View(size=side, crop="centre", order=("crop",), mean=(0.5,), std=(0.25,))
    return weights.Backbone(Method(module), made["params"], stats, view, {"method": "test"})


@pytest.mark.parametrize("name", TORCH)
def test_torchs_weights_give_torchs_features_here_and_in_onnx(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, images, wanted = stored(name)
    backbone, dropped = imported(tmp_path, name)
    assert not [k for k in dropped if not k.endswith("num_batches_tracked")]
    close(features(backbone, images), wanted)
    session = onnxruntime.InferenceSession(onnx_graph.model(backbone).SerializeToString())
    for count in (2, 1):  # the batch axis is free
        (found,) = session.run(None, {"images": images[:count].transpose(0, 3, 1, 2)})
        close(found, wanted[:count])


@pytest.mark.parametrize("name", TORCH)
def test_a_state_dict_comes_out_as_it_went_in(tmp_path, name):
    state, _, _ = stored(name)
    backbone, _ = imported(tmp_path, name)
    names = name.split("_")[0]
    found = torch_names.to_torch(backbone.params, backbone.stats, backbone.module, names, TORCH[name][1])
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("name", "prefix", "beside", "root"),
    [
        ("torchvision_resnet18", "state_dict.module.encoder_q.", ("fc.0.weight", "fc.2.bias"), "MoCo"),
        ("timm_vit", "state_dict/module.base_encoder.", ("head.0.weight",), "MoCo v3"),
        ("timm_vit", "teacher/backbone.", ("../head.mlp.0.weight",), "DINO"),
        ("torchvision_resnet18", "model.module.backbone.", ("../projector.0.weight", "../bn.running_mean"), "Barlow"),
        ("torchvision_resnet18", "module.", ("projection_head.0.weight", "prototypes.weight"), "SwAV"),
        ("torchvision_resnet18", "model/module.backbone.", ("../projector.0.weight",), "VICReg"),
        ("timm_vit", "model.", ("mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.weight"), "MAE"),
        ("torchvision_vit", "", ("heads.head.weight",), "torchvision"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_names_of_other_projects(tmp_path, name, prefix, beside, root):
    heads = {_beside(prefix, key): np.ones(3) for key in beside}
    backbone, dropped = imported(tmp_path, name, prefix, **heads)
    plain, _ = imported(tmp_path, name)
    tiny.assert_same(backbone.params, plain.params)
    tiny.assert_same(backbone.stats, plain.stats)
    assert {k.replace("/", ".") for k in heads} == {k for k in dropped if not k.endswith("num_batches_tracked")}


def _beside(prefix, key):
    if not key.startswith("../"):
        return prefix + key
    return prefix.removesuffix("backbone.") + key.removeprefix("../")


@pytest.mark.parametrize(("kept", "left"), [("encoder_q", "encoder_k"), ("teacher", "student")])
def test_of_two_networks_the_one_that_the_authors_evaluate_is_taken(tmp_path, kept, left):
    state, _, _ = stored("torchvision_resnet18")
    other = {f"{left}.{k}": np.zeros_like(v) for k, v in state.items()}
    backbone, dropped = imported(tmp_path, "torchvision_resnet18", f"{kept}.", **other)
    assert np.abs(backbone.params["stem"]["kernel"]).max() > 0
    assert f"{left}.conv1.weight" in dropped


def changed(state, how):
    if how == "missing":
        del state["layer2.0.bn1.weight"]
    elif how == "unexpected":
        state["layer2.0.se.weight"] = np.ones(2, np.float32)
    elif how == "shape":
        state["layer1.0.conv2.weight"] = np.ones((2, 2, 1, 1), np.float32)
    elif how == "none":
        state = {f"features.{i}": v for i, v in enumerate(state.values())}
    elif how == "two":
        state = {f"{side}.{k}": v for k, v in state.items() for side in ("left", "right")}
    return state


@pytest.mark.parametrize(
    ("how", "arch", "words"),
    [
        ("missing", "resnet18", "lack layer2.0.bn1.weight"),
        ("unexpected", "resnet18", "also hold layer2.0.se.weight"),
        ("shape", "resnet18", r"layer1.0.conv2.weight has shape \(2, 2, 1, 1\)"),
        ("none", "resnet18", "none"),
        ("two", "resnet18", "several"),
        ("", "resnet50", "layer1.0.conv3.weight"),
        ("", "vit_tiny", "patch_embed.proj.weight"),
        ("", "resnet19", "Did you mean 'resnet18'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, how, arch, words):
    state = changed(stored("torchvision_resnet18")[0], how)
    np.savez(tmp_path / "theirs.npz", **state)
    with pytest.raises(UserError, match=words):
        torch_import.backbone(tmp_path / "theirs.npz", arch, {})


def test_pickled_checkpoints_need_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs PyTorch"):
        torch_import.backbone(tmp_path / "r50.pth", "resnet50", {})


def test_moco_v3s_small_transformer_has_twelve_heads(monkeypatch, tmp_path):
    monkeypatch.setitem(SIZES, "vit_small", (24, 2, 6))
    state = torch_names.to_torch(fresh(ViT("vit_small", 4)).params, {}, ViT("vit_small", 4), "timm", 8)
    for prefix, heads in (("module.base_encoder.", 12), ("backbone.", 6)):
        np.savez(tmp_path / "theirs.npz", **{prefix + k: v for k, v in state.items()})
        assert torch_import.backbone(tmp_path / "theirs.npz", "vit_small", {})[0].module.heads == heads


@pytest.mark.parametrize("source", ["dinov2", "timm", "timm without the class token's position"])
def test_registers_of_other_projects(tmp_path, source):
    """DINOv2's names and positions, and both of timm's ways to have positions."""
    module = ViT("vit_test", 4, 2, registers=3, layer_scale=1.0)
    backbone = fresh(module)
    state = torch_names.to_torch(backbone.params, {}, module, "timm", 8)
    assert state["pos_embed"].shape == (1, 1 + 3 + 4, 16) and state["reg_token"].shape == (1, 3, 16)
    table = state["pos_embed"]
    if source == "dinov2":
        renamed = {"reg_token": "register_tokens"}
        state = {renamed.get(k, k): v for k, v in state.items()} | {"mask_token": np.zeros((1, 16))}
        state["pos_embed"] = np.delete(table, (1, 2, 3), 1)
    elif source != "timm":
        state["cls_token"] = state["cls_token"] + table[:, :1]
        state["pos_embed"] = table[:, 4:]
    np.savez(tmp_path / "theirs.npz", **state)
    found, _ = torch_import.backbone(tmp_path / "theirs.npz", "vit_test", {"size": 8})
    assert found.module == module
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    close(features(found, images), features(backbone, images), 5e-5)


@pytest.mark.fast
@pytest.mark.parametrize(("name", "registers"), [("vit_small", 0), ("vit_base", 4), ("vit_large", 4), ("vit_giant", 0)])
def test_released_checkpoints_of_dinov2_have_these_names(name, registers):
    """ViT-S/14 to ViT-g/14 of facebookresearch/dinov2 at 518 pixels: every key, and its shape, has a place here."""
    width, depth, _ = {"vit_small": (384, 12, 6), "vit_base": (768, 12, 12), "vit_large": (1024, 24, 16)}.get(
        name, (1536, 40, 24)
    )
    theirs = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + 37 * 37, width), "mask_token": (1, width)}
    theirs |= {"register_tokens": (1, registers, width)} if registers else {}
    theirs |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    first, second = ("mlp.fc1", "mlp.fc2") if name != "vit_giant" else ("mlp.w12", "mlp.w3")
    hidden, inside = (4 * width, 4 * width) if name != "vit_giant" else (8192, 4096)
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {first: (hidden, width), second: (width, inside)}
    for block in (f"blocks.{i}" for i in range(depth)):
        for layer, shape in linear.items():
            theirs |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
        theirs |= {f"{block}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        theirs |= {f"{block}.ls{k}.gamma": (width,) for k in (1, 2)}
    theirs |= {"norm.weight": (width,), "norm.bias": (width,)}

    module = ViT(name, 14, registers=registers, layer_scale=1.0)
    image = jax.ShapeDtypeStruct((1, 518, 518, 3), jnp.float32)
    made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    ours = {"/".join(k): v.shape for k, v in flax.traverse_util.flatten_dict({"params": made["params"]}).items()}
    assert set(ours) == {pair.ours for pair in module.torch_pairs("timm")}
    found = {}
    for pair in module.torch_pairs("timm"):
        shape = ours[pair.ours]
        shape = {"dense": shape[::-1], "patch": (shape[-1], 3, 14, 14)}.get(pair.kind, shape)
        found[pair.theirs] = shape
    known = {torch_names._renamed(k): v for k, v in theirs.items() if k != "mask_token"}
    assert found == known
    assert "mask_token" in torch_import._HEADS


def test_dinov3s_checkpoint(tmp_path):
    """Registers have another name, keys no bias, and the periods of the positions are told."""
    module = RotaryViT("vit_test", 4, 2, registers=3, layer_scale=1.0)
    backbone = fresh(module)
    state = torch_names.to_torch(backbone.params, {}, module, "timm", 8)
    theirs = {"reg_token": "storage_tokens"}
    state = {theirs.get(k, k): v for k, v in state.items()}
    mask = np.repeat([1.0, 0.0, 1.0], 16)
    for name in [name for name in state if name.endswith("qkv.bias")]:
        state[f"{name}_mask"] = mask
    state |= {"rope_embed.periods": np.array([1.0, 10.0]), "mask_token": np.zeros((1, 16))}
    state |= {f"local_cls_norm.{k}": np.ones(16) for k in ("weight", "bias")}
    np.savez(tmp_path / "theirs.npz", **state)
    found, dropped = torch_import.backbone(tmp_path / "theirs.npz", "vit_test", {"size": 8})
    assert found.module == module
    assert sorted(dropped) == ["local_cls_norm.bias", "local_cls_norm.weight", "mask_token", "rope_embed.periods"]
    for i in (1, 2):
        block = backbone.params[f"block{i}"]["qkv"]
        block["bias"] = block["bias"] * mask.astype(np.float32)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    close(features(found, images), features(backbone, images), 5e-5)

    np.savez(tmp_path / "theirs.npz", **state | {"rope_embed.periods": np.array([1.0, 100.0])})
    with pytest.raises(UserError, match="would see other places"):
        torch_import.backbone(tmp_path / "theirs.npz", "vit_test", {"size": 8})


def test_the_card_builds_dinov2s_network():
    card = export.card.text(fresh(MODULES["dinov2"]), {}, "b.safetensors", "timm")
    for words in ("reg_tokens=3", "init_values=1.0", "SwiGLUPacked", "3 registers"):
        assert words in card


MODULES = {
    "convnet": ConvNet(2),
    "linear stem": ResNet("resnet18", 2, "small_linear"),
    "sincos": ViT("vit_test", 4, positions="sincos"),
    "dinov2": ViT("vit_test", 4, registers=3, layer_scale=0.5, ffn="swiglu"),
    "rotary": RotaryViT("vit_test", 4, registers=2, layer_scale=0.5),
    "group norm": ResNet("resnet18", 2, "small", norm="group"),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("layout", ["npz", "safetensors", "torchvision", "timm", "onnx"])
def test_every_format_keeps_the_features_or_refuses(tmp_path, kind, layout):
    backbone = fresh(MODULES[kind])
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    foreign_names = layout in ("torchvision", "timm")
    unnamed = {
        "group norm": ("torchvision", "timm", "onnx"),
        "convnet": ("torchvision", "timm"),
        "dinov2": ("torchvision",),
        "rotary": ("torchvision",),  # timm's names are DINOv3's own, which can be read again
    }
    if layout in unnamed.get(kind, ()):
        with pytest.raises(UserError, match="use the format"):
            onnx_graph.model(backbone) if layout == "onnx" else weights.save(tmp_path / "b.npz", backbone, layout)
        return
    if layout == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(onnx_graph.model(backbone).SerializeToString())
        (found,) = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
    else:
        path = tmp_path / ("b.npz" if layout == "npz" else "b.safetensors")
        weights.save(path, backbone, layout if foreign_names else "ours")
        again = weights.load(path)
        assert (again.view, again.origin) == (backbone.view, backbone.origin)
        found = features(again, images)
    # Random weights, unlike torch's above, make much of float32's rounding in the transformer's norms.
    close(found, features(backbone, images), 5e-5)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return stored_run(tmp_path_factory.mktemp("simclr"), "simclr", tiny.fresh(tiny.run("simclr")))


def stored_run(folder, name, ts, config=None):
    config = config or tiny.config(name)
    (folder / "config.json").write_text(config.to_json())
    checkpoints = Checkpoints(folder, 1)
    checkpoints.save(7, ts, {})
    checkpoints.close()
    return folder


def test_a_run_gives_what_evaluation_sees(workdir, tmp_path):
    run = tiny.run("simclr")
    ts = tiny.fresh(run)
    images = run.train.images[:5]
    wanted = extractor(run.method, run.eval_view, run.mesh, 8)(ts.params, ts.state, images)
    backbone = ssl_jax.load_backbone(str(workdir))
    close(backbone(images), wanted)
    close(backbone(images / 255.0), wanted)
    assert backbone(images[:0]).shape == (0, wanted.shape[1])
    assert backbone(images[:3], stage=1).shape == (3, 4)
    np.testing.assert_allclose(backbone(images[:1]), wanted[:1], atol=1e-5)
    export.export(str(workdir), "npz", str(tmp_path / "b.npz"))
    np.testing.assert_array_equal(ssl_jax.load_backbone(str(tmp_path / "b.npz"))(images), backbone(images))


def _changing():
    """Methods whose features are not just those of their network, or not of the network that they train."""
    base = Method.encode, Method.variables
    return [name for name in build.names() if (build.find(name).encode, build.find(name).variables) != base]


@pytest.mark.parametrize("name", _changing())
def test_a_method_that_changes_images_does_so_without_its_run(tmp_path, name):
    """In memory, through a file, and in the untrained network that a file is compared with."""
    run = tiny.run(name)
    ts = tiny.fresh(run)
    images = run.train.images[:4]
    wanted = extractor(run.method, run.eval_view, run.mesh, 4)(ts.params, ts.state, images)
    folder = stored_run(tmp_path, name, ts)
    # Some divide an image by its own spread, which makes much of float32's rounding.
    close(ssl_jax.load_backbone(str(folder))(images), wanted, 1e-3)
    assert export.main([f"--workdir={folder}", "--format=npz"]) == 0
    file = tmp_path / "backbone.npz"
    assert "load_backbone" in export.card_of(file).read_text()
    close(ssl_jax.load_backbone(str(file))(images), wanted, 1e-3)
    loaded = imported_module.load(str(file), run.config.data.source, None)
    fresh = loaded.run.init()
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, loaded.ts.params)
    seen = extractor(loaded.run.method, loaded.run.eval_view, loaded.run.mesh, 4)
    close(seen(loaded.ts.params, loaded.ts.state, images), wanted, 1e-3)
    assert np.abs(seen(fresh.params, fresh.state, images) - wanted).max() > 0.01 * np.abs(wanted).max()
    for channels in {1, 2, 3} - {images.shape[-1]}:
        with pytest.raises(UserError, match=f"{channels} channel"):
            ssl_jax.load_backbone(str(file))(np.zeros((1, 8, 8, channels), np.uint8))
    for layout in ("torchvision", "onnx"):  # of the bare network, or refused in a sentence
        assert export.main([f"--workdir={folder}", f"--format={layout}"]) in (0, 2)


def test_a_file_of_cpc_from_before_has_the_same_features(tmp_path):
    """Its view had the normalisation of patches, which `encode` has now."""
    folder = stored_run(tmp_path, "cpc", tiny.fresh(tiny.run("cpc")))
    backbone, images = weights.load(folder), tiny.run("cpc").train.images[:4]
    patch = backbone.method.patch
    before = dataclasses.replace(backbone, view=dataclasses.replace(backbone.view, mean=patch.mean, std=patch.std))
    assert before.view != backbone.view
    weights.save(tmp_path / "b.npz", before)
    np.testing.assert_array_equal(weights.load(tmp_path / "b.npz")(images), backbone(images))


@pytest.mark.parametrize("name", ["b.npz", "b.safetensors", "b.onnx"])
def test_a_folder_where_an_export_would_be_is_named(tmp_path, capsys, name):
    """And no other file beside it is touched."""
    folder = stored_run(tmp_path, "simclr", tiny.fresh(tiny.run("simclr")))
    theirs, out = tmp_path / f"b.new{pathlib.Path(name).suffix}", tmp_path / name
    theirs.write_text("theirs")
    out.mkdir()
    before = sorted(tmp_path.iterdir())
    assert export.main([f"--workdir={folder}", f"--format={name[2:]}", f"--out={out}"]) == 2
    assert f"{name} cannot be written (Is a directory): choose another place" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before and theirs.read_text() == "theirs"


def test_two_halves_have_no_other_format(tmp_path, capsys):
    run = tiny.run("split_brain", **{"model.name": "resnet18"})
    folder = stored_run(tmp_path, "split_brain", run.init(), run.config)
    backbone = weights.load(folder)
    assert backbone.channels == 3 and backbone.takes == 3
    for layout in ("torchvision", "timm", "onnx"):
        assert export.main([f"--workdir={folder}", f"--format={layout}"]) == 2
    assert capsys.readouterr().err.count("two halves") >= 2


@pytest.mark.parametrize("name", ["autoencoder", "context_encoder"])
def test_of_a_transformer_that_learned_by_its_map_the_mean_is_taken(tmp_path, name):
    """Its class token was never trained."""
    c = tiny.config(name, **{"model.name": "vit_test", "model.patch": 4})
    run = prepare(c, jax.devices()[:1])
    ts = run.init()
    images = run.train.images[:4]
    wanted = extractor(run.method, run.eval_view, run.mesh, 4)(ts.params, ts.state, images)
    backbone = weights.load(stored_run(tmp_path, name, ts, c))
    close(backbone(images), wanted)
    weights.save(tmp_path / "b.npz", backbone)
    close(weights.load(tmp_path / "b.npz")(images), wanted)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(onnx_graph.model(backbone).SerializeToString())
    x = np.asarray(render_batch(backbone.view, jax.random.split(jax.random.key(0), 4), jnp.asarray(images)))
    (found,) = session.run(None, {"images": x.transpose(0, 3, 1, 2)})
    close(found, wanted)


def test_of_dino_the_teacher_is_taken(tmp_path):
    run = tiny.run("dino")
    ts = tiny.fresh(run)
    teacher = jax.tree.map(lambda x: x + 0.5, ts.state["teacher"])
    ts = ts.replace(state={**ts.state, "teacher": teacher})
    backbone = ssl_jax.load_backbone(str(stored_run(tmp_path, "dino", ts)))
    tiny.assert_same(backbone.params, teacher["params"]["backbone"])
    tiny.assert_same(backbone.stats, teacher["stats"]["backbone"])


@pytest.mark.parametrize(
    ("images", "stage", "words"),
    [
        (np.zeros((8, 8, 1), np.uint8), None, "N, H, W, C"),
        (np.zeros((2, 8, 8, 3), np.uint8), None, "3 channel"),
        (np.zeros((2, 8, 8, 1), np.int64), None, "int64"),
        (np.full((2, 8, 8, 1), 255.0), None, "0, 1"),
        (np.full((2, 8, 8, 1), np.nan), None, "0, 1"),
        (np.zeros((2, 8, 8, 1), np.uint8), 4, "stage 4"),
        (np.zeros((2, 8, 8, 1), np.uint8), 0, "stage 0"),
    ],
)
def test_images_that_are_none(workdir, images, stage, words):
    with pytest.raises(UserError, match=words):
        ssl_jax.load_backbone(str(workdir))(images, stage=stage)


def test_paths_that_hold_no_backbone(tmp_path):
    np.savez(tmp_path / "theirs.npz", x=np.ones(2))
    (tmp_path / "damaged.npz").write_bytes(b"PK no")
    (tmp_path / "b.txt").write_text("")
    for name, words in (
        ("absent", "no backbone at"),
        ("theirs.npz", "--import"),
        ("damaged.npz", "cannot be read"),
        ("b.txt", "neither"),
        (".", "There is no run"),
    ):
        with pytest.raises(UserError, match=words):
            weights.load(tmp_path / name)


def test_export_from_the_command_line(workdir, tmp_path, capsys):
    (workdir / "results.json").write_text(json.dumps({"knn/top1": 0.75, "device": "1 x cpu"}))
    assert export.main([f"--workdir={workdir}", "--format=onnx"]) == 0
    card = (workdir / "backbone.onnx.md").read_text()
    for words in ("simclr", "digits", "| knn/top1 | 0.75 |", "FILL IN", '"batch_size": 16', "onnxruntime"):
        assert words in card
    assert export.main([f"--workdir={workdir}", "--format=timm"]) == 2
    assert export.main([f"--workdir={workdir}", "--format=npz", "--out=b.onnx"]) == 2
    assert export.main([f"--workdir={tmp_path}"]) == 2
    assert export.main(["--workdir=gs://bucket/runs/a"]) == 2
    told = capsys.readouterr().err
    assert told.count("Error: ") == 4 and "gs://bucket/runs/a is no folder of this machine" in told


def test_import_from_the_command_line(tmp_path, capsys):
    state, _, _ = stored("torchvision_resnet18")
    np.savez(tmp_path / "theirs.npz", **state, **{"fc.weight": np.ones(2)})
    out = tmp_path / "ours.npz"
    theirs = f"--import={tmp_path / 'theirs.npz'}"
    assert export.main([theirs, "--arch=resnet18", f"--out={out}", "--size=32", "--mean=.5,.5,.5"]) == 0
    assert "fc.weight" in capsys.readouterr().out
    backbone = ssl_jax.load_backbone(str(out))
    assert (backbone.view.size, backbone.view.mean, backbone.view.centre) == (32, (0.5, 0.5, 0.5), 0.875)
    assert backbone(np.zeros((1, 40, 50, 3), np.uint8)).shape == (1, 16)
    assert export.main([theirs, "--arch=resnet18"]) == 2


def test_the_card_says_how_torch_builds_what_it_has_no_name_for(tmp_path):
    card = export.card.text(fresh(MODULES["linear stem"]), {}, "b.safetensors", "torchvision")
    for line in ("nn.Conv2d(3, 2, 3, 1, 1, bias=False)", "model.maxpool = nn.Identity()", "model.relu = nn.Identity()"):
        assert line in card


@pytest.mark.fast
def test_importing_the_package_is_light():
    code = "import sys, ssl_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.fast
@pytest.mark.parametrize("arch", ["resnet34", "resnet50"])
def test_every_array_of_a_resnet_has_a_name(arch):
    module = ResNet(arch)
    made = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), jnp.zeros((1, 32, 32, 3)))
    ours = flax.traverse_util.flatten_dict({"params": made["params"], "stats": made["batch_stats"]}, sep="/")
    assert sorted(p.ours for p in module.torch_pairs("timm")) == sorted(ours)
