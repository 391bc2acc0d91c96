"""The model card that lies beside exported weights: what they are, what they are worth, and how to load them."""

import json
import pathlib
import subprocess
from typing import Any

import ssl_jax
from ssl_jax.models import DEPTHS, SIZES, ResNet, ViT
from ssl_jax.weights import Backbone


def text(backbone: Backbone, results: dict[str, Any], file: str, layout: str) -> str:
    """The model card in Markdown.

    Args:
      backbone: that was written.
      results: what evaluation stored of the run; empty where it has not run.
      file: name of the file that was written.
      layout: format that it was written in.
    """
    origin = dict(backbone.origin)
    config = origin.pop("config", {})
    title = f"{origin.get('method', 'imported')} backbone: {_network(backbone)}"
    parts = [
        f"# {title}",
        "**Licence: FILL IN BEFORE SHARING.** The terms of the training images may bind the weights.",
        "## Training",
        _training(origin, config),
        "## Results",
        _results(results),
        "## Input and output",
        _input(backbone),
        "## How to load",
        _loading(backbone, file, layout),
    ]
    if config:
        parts += ["## Config", f"```json\n{json.dumps(config, indent=2)}\n```"]
    return "\n\n".join(parts) + "\n"


def _network(backbone: Backbone) -> str:
    module: Any = backbone.module
    if isinstance(module, ViT):
        return f"{module.size}, patches of {module.patch} pixels"
    name = module.depth if isinstance(module, ResNet) else type(module).__name__
    stem = f", stem '{module.stem}'" if isinstance(module, ResNet) else ""
    return f"{name} of width {module.width}{stem}"


def _training(origin: dict[str, Any], config: dict[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in origin.items()]
    if config:
        lines += [
            f"- data: {config['data']['source']}",
            f"- epochs asked for: {config['epochs']}, {config['batch_size']} images an update, seed {config['seed']}",
        ]
    lines.append(f"- exported by ssl_jax {ssl_jax.__version__}, commit {_commit()}")
    return "\n".join(lines)


def _commit() -> str:
    """The commit of the code that runs, where it runs from a checkout."""
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not run from a checkout)"
    return done.stdout.strip()


def _results(results: dict[str, Any]) -> str:
    numbers = {k: v for k, v in results.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if not numbers:
        return "Not evaluated: run `python -m ssl_jax.evaluate` and export again."
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    return f"| measure | value |\n|---|---|\n{rows}"


def _input(backbone: Backbone) -> str:
    view = backbone.view
    lines = [
        f"Images of {view.size}x{view.size} pixels and {backbone.channels} channel(s): the centre square of "
        f"{view.centre:g} times the short side, resized ({view.interpolation}, "
        f"{'' if view.antialias else 'not '}antialiased), scaled to [0, 1], less "
        f"{list(view.mean)}, over {list(view.std)}."
    ]
    if not backbone.plain:
        name = type(backbone.method).__name__
        lines.append(
            f"{name} changes images before the network sees them, or its output after: see `{name}.features`. "
            "`ssl_jax.load_backbone` does so; other programs get the bare network."
        )
    return "\n\n".join(lines)


def _loading(backbone: Backbone, file: str, layout: str) -> str:
    if layout == "onnx":
        code = (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{file}")\n'
            '(features,) = session.run(None, {"images": images})  # float32 [N, C, H, W], normalised as above'
        )
    elif layout in ("torchvision", "timm"):
        build = _torch_vit if isinstance(backbone.module, ViT) else _torch_resnet
        code = "from safetensors.torch import load_file\nfrom torch import nn\n" + build(backbone, layout)
        code += f'\nmodel.load_state_dict(load_file("{file}"))\nmodel.eval()'
        code += "\nfeatures = model(images)  # [N, C, H, W], normalised as above"
    else:
        code = (
            "from ssl_jax import load_backbone\n\n"
            f'features = load_backbone("{file}")(images)  # [N, H, W, C], uint8 or floating point in [0, 1]'
        )
    return f"```python\n{code}\n```"


def _torch_resnet(backbone: Backbone, layout: str) -> str:
    """Code that builds the network; a width or stem that the library has no model of is put in by hand."""
    module: Any = backbone.module
    blocks, bottleneck = DEPTHS[module.depth]
    kind = "Bottleneck" if bottleneck else "BasicBlock"
    small = module.stem != "imagenet"
    kernel = "3, 1, 1" if small else "7, 2, 3"
    stem = f"model.conv1 = nn.Conv2d({backbone.channels}, {module.width}, {kernel}, bias=False)"
    if layout == "timm":
        lines = ["import timm", "", f'model = timm.create_model("{module.depth}", num_classes=0)', stem]
    else:
        lines = [
            f"from torchvision.models.resnet import {kind}, ResNet",
            "",
            f"model = ResNet({kind}, {list(blocks)})",
            stem,
            "model.fc = nn.Identity()",
        ]
        if module.width != 64:
            lines += [
                f"model.bn1, model.inplanes = nn.BatchNorm2d({module.width}), {module.width}",
                f"for i, blocks in enumerate({list(blocks)}):",
                f"    layer = model._make_layer({kind}, {module.width} * 2**i, blocks, stride=1 if i == 0 else 2)",
                '    setattr(model, f"layer{i + 1}", layer)',
            ]
    if small:
        lines.append("model.maxpool = nn.Identity()")
    if module.stem == "small_linear":
        name = "act1" if layout == "timm" else "relu"
        lines.append(f"model.{name} = nn.Identity()  # this stem has no ReLU; those of the blocks stay")
    return "\n".join(lines)


def _torch_vit(backbone: Backbone, layout: str) -> str:
    module: Any = backbone.module
    width, depth, heads = SIZES[module.size]
    size, heads = backbone.view.size, module.heads or heads
    if layout == "timm":
        return (
            "import timm\n\n"
            f"model = timm.models.VisionTransformer(\n    img_size={size}, patch_size={module.patch}, "
            f"in_chans={backbone.channels}, embed_dim={width}, depth={depth}, num_heads={heads}, num_classes=0\n)"
        )
    lines = [
        "from torchvision.models import VisionTransformer",
        "",
        f"model = VisionTransformer({size}, {module.patch}, {depth}, {heads}, {width}, {4 * width})",
        "model.heads = nn.Identity()",
    ]
    if backbone.channels != 3:
        lines.append(f"model.conv_proj = nn.Conv2d({backbone.channels}, {width}, {module.patch}, {module.patch})")
    return "\n".join(lines)
