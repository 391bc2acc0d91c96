"""The model card that lies beside exported weights: what they are, what they are worth, and how to load them."""

import json
import pathlib
import subprocess
from typing import Any

import ssl_jax
from ssl_jax.weights import Backbone, refuse_halves
from ssl_jax.weights.dense_head import DenseHead


def text(backbone: Backbone, results: dict[str, Any], file: str, layout: str, head: DenseHead | None = None) -> str:
    """The model card in Markdown.

    Args:
      backbone: that was written.
      results: what evaluation stored of the run; empty where it has not run.
      file: name of the file that was written.
      layout: format that it was written in.
      head: of dense prediction that was written with it.
    """
    origin = dict(backbone.origin)
    config = origin.pop("config", {})
    title = f"{origin.get('method', 'imported')} backbone: {backbone.module.title}"
    if head:
        title = f"{head.name} on a {title}"
        results = {name: value for name, value in results.items() if name.startswith(f"{head.name}/")}
    parts = [
        f"# {title}",
        "**Licence: FILL IN BEFORE SHARING.** The terms of the training images may bind the weights.",
        "## Training",
        _training(origin, config) + (f"\n- head: {_trained(head)}" if head else ""),
        "## Results",
        _results(results),
        "## Input and output",
        _of_head(head, backbone) if head else _input(backbone),
        "## How to load",
        _session(file, head.answer.outputs) if head else _loading(backbone, file, layout),
    ]
    if config:
        parts += ["## Config", f"```json\n{json.dumps(config, indent=2)}\n```"]
    return "\n\n".join(parts) + "\n"


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
        return "Not evaluated: run `ssl_jax evaluate` and export again."
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
            f"{name} changes images before the network sees them, or its output after: see `{name}.encode`. "
            "`ssl_jax.load_backbone` does so; other programs get the bare network."
        )
    return "\n\n".join(lines)


def _trained(head: DenseHead) -> str:
    kind = "alone, on the frozen backbone" if head.backbone is None else "together with the backbone"
    return f"{type(head.head).__name__}, trained on {head.data} {kind}"


def _of_head(head: DenseHead, backbone: Backbone) -> str:
    view, (height, width) = backbone.view, head.size
    free = "no other size" if backbone.module.fixed_size else "the graph takes other sizes, too"
    lines = [
        f"Images of {height}x{width} pixels ({free}) and {backbone.channels} channel(s), at the scale of the images of "
        f"{head.data}: scaled to [0, 1], less {list(view.mean)}, over {list(view.std)}."
    ]
    lines.append(f"{head.answer.words}.")
    return "\n\n".join(lines)


def _session(file: str, outputs: tuple[str, ...]) -> str:
    names = f"({', '.join(outputs)}{',' * (len(outputs) == 1)})"
    return (
        f'```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\n'
        f'{names} = session.run(None, {{"images": images}})  # float32 [N, C, H, W], normalised as above\n```'
    )


def _loading(backbone: Backbone, file: str, layout: str) -> str:
    if layout == "onnx":
        return _session(file, ("features",))
    if layout in ("torchvision", "timm"):
        refuse_halves(backbone, layout)
        code = "from safetensors.torch import load_file\nfrom torch import nn\n"
        code += backbone.module.torch_code(layout, backbone.channels, backbone.view.size)
        code += f'\nmodel.load_state_dict(load_file("{file}"))\nmodel.eval()'
        code += "\nfeatures = model(images)  # [N, C, H, W], normalised as above"
    else:
        code = (
            "from ssl_jax import load_backbone\n\n"
            f'features = load_backbone("{file}")(images)  # [N, H, W, C], uint8 or floating point in [0, 1]'
        )
    return f"```python\n{code}\n```"
