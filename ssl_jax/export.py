"""Exports the backbone of a run, or imports the checkpoint of another project.

  ssl_jax export runs/a --format=torchvision                       writes runs/a/backbone_torchvision.safetensors
  ssl_jax export runs/a --head=depth/linear                        with a dense head, writes runs/a/depth_linear.onnx
  ssl_jax export --import=r50.pth --arch=resnet50 --out=b.npz      a checkpoint of another project, in our format

Formats: npz and safetensors (our names), torchvision and timm (state dicts under their names, in safetensors), onnx. A
model card lies beside each. What is imported are ResNets and vision transformers of torchvision and timm, and the
checkpoints of MoCo, DINO, Barlow Twins, SwAV, VICReg, MAE (fine-tuned ones, too), I-JEPA, solo-learn, lightly,
mmselfsup, byol-pytorch and Hugging Face; --prefix names the network where a file holds several. ssl_jax.load_backbone
and --backbone take the result. A file is written once it has been loaded back and has given the same features.
"""

import argparse
from collections.abc import Callable
import pathlib
import sys
from typing import Any
import uuid

from etils import epath
import numpy as np

from ssl_jax import command_line, weights
from ssl_jax.runtime import files, modules
from ssl_jax.runtime.errors import UserError, explained
from ssl_jax.weights import card, dense_head, onnx_graph, torch_import
from ssl_jax.weights.dense_head import DenseHead
from ssl_jax.workdir import results as stored_results
from ssl_jax.workdir.log import speak_plainly

FORMATS = ("npz", "safetensors", "torchvision", "timm", "onnx")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


# How an imported network wants to see an image, where that is not what is usual.
_VIEW: dict[str, tuple[Callable[[str], Any], str]] = {
    "size": (int, "side of the images, pixels (default: the transformer's own; 224; 32 with a 3x3 stem)"),
    "centre": (float, "share of the short side to keep (default: 0.875; 1 with a 3x3 stem)"),
    "interpolation": (str, "bilinear or bicubic (default: bicubic for transformers)"),
    "mean": (_numbers, "of the channels, of images in [0, 1] (default: ImageNet's)"),
    "std": (_numbers, "of the channels, likewise"),
}


def export(workdir: str, layout: str | None = None, out: str | None = None, head: str | None = None) -> pathlib.Path:
    """Writes the backbone of a run, and its model card beside it.

    Args:
      workdir: of the run, or a file of `weights.save`.
      layout: one of `FORMATS`; default safetensors, or onnx with a head.
      out: path of the file; default `backbone...` in the workdir, or the name of the head.
      head: of dense prediction, to be written with the backbone as one graph: its name in the workdir's results, as
        'depth/linear', or its file.

    Returns:
      the path of the file.

    Raises:
      UserError: if there is no backbone, the format has no such network, or it is not said where to put it.
    """
    if "://" in workdir and out is None:
        raise UserError(f"{workdir} is no folder of this machine: say where to put the backbone, with --out=FILE.")
    layout = layout or ("onnx" if head else "safetensors")
    if head and layout != "onnx":
        raise UserError(f"--head is written with the backbone as one ONNX graph, not as {layout}: drop --format.")
    named = layout in ("torchvision", "timm")
    suffix = ".safetensors" if named else f".{layout}"
    source = epath.Path(workdir)
    folder = source if source.is_dir() else source.parent
    found = None if head is None else dense_head.find(workdir, head)
    stem = found.name.replace("/", "_") if found else f"backbone_{layout}" if named else "backbone"
    path = pathlib.Path(out or folder / f"{stem}{suffix}")
    if path.suffix != suffix:
        raise UserError(f"--out={path} does not end in {suffix}, as the format {layout} has it.")
    backbone = weights.load(workdir)
    results = stored_results.read(folder / "results.json") or {}
    described = card.text(backbone, results, path.name, layout, found)
    if layout == "onnx":
        _write(path, _tried(path, backbone, found))
    else:
        _save(path, backbone, layout if named else "ours")
    _write(card_of(path), described.encode())
    return path


def bring_in(
    path: str, arch: str, out: str, view: dict[str, Any] | None = None, **network: Any
) -> tuple[pathlib.Path, list[str]]:
    """Brings the backbone of another project's checkpoint into a file of ours, with a model card beside it.

    Args:
      path: of the checkpoint.
      arch: name of the architecture, as in `config.model.name`.
      out: path of the file to write, .npz or .safetensors.
      view: fields of the `View` of images that are not what is usual.
      **network: `heads`, `linear_stem` and `prefix`, as for `torch_import.backbone`.

    Returns:
      the path of the file, and the keys that were left behind.

    Raises:
      UserError: if the checkpoint does not hold this architecture.
    """
    if pathlib.Path(out).suffix not in (".npz", ".safetensors"):
        raise UserError(f"--out={out} ends neither in .npz nor in .safetensors: choose one of them.")
    _check_view(view or {})
    backbone, dropped = torch_import.backbone(pathlib.Path(path), arch, view or {}, **network)
    target = pathlib.Path(out)
    _save(target, backbone)
    _write(card_of(target), card.text(backbone, {}, target.name, target.suffix[1:]).encode())
    return target, dropped


def _check_view(view: dict[str, Any]) -> None:
    std = np.asarray(view.get("std", 1.0), float)
    if not (view.get("size", 1) >= 1 and 0 < view.get("centre", 1) <= 1 and np.all((std > 0) & np.isfinite(std))):
        raise UserError(
            f"{view} is no view of an image: --size is at least 1, --centre above 0 and at most 1, --std above 0."
        )


def _save(path: pathlib.Path, backbone: weights.Backbone, names: str = "ours") -> None:
    """Writes a backbone, once what was written has been loaded back and gives the same features of some noise.

    Raises:
      UserError: it does not, or cannot be written; a file that was there stays.
    """
    tried = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:8]}.new{path.suffix}")
    images = np.random.default_rng(0).integers(0, 256, (2, *(backbone.view.size,) * 2, backbone.takes), np.uint8)
    try:
        weights.save(tried, backbone, names)
        _check_same(path, weights.load(tried)(images), backbone(images))
        tried.replace(path)
    except IsADirectoryError as error:
        raise _unwritten(path, error) from error
    finally:
        tried.unlink(missing_ok=True)


def _tried(path: pathlib.Path, backbone: weights.Backbone, head: DenseHead | None) -> bytes:
    """An ONNX file, once it has been run and gives the network's own features, or the head's answers, of some noise.

    Raises:
      UserError: it does not.
    """
    content = (onnx_graph.model(backbone) if head is None else head.model(backbone)).SerializeToString()
    size = head.size if head else (backbone.view.size,) * 2
    images = np.random.default_rng(0).standard_normal((2, *size, backbone.channels)).astype(np.float32)
    if head is None:
        _check_same(path, onnx_graph.features(content, images), backbone.bare(images))
        return content
    found = onnx_graph.outputs(content, images)
    for name, wanted in head.outputs(backbone, images).items():
        _check_same(path, found[name], wanted)
    return content


def _check_same(path: pathlib.Path, found: np.ndarray, wanted: np.ndarray) -> None:
    if not (np.isfinite(wanted).all() and np.allclose(found, wanted, rtol=1e-2, atol=1e-2 * np.abs(wanted).max())):
        raise UserError(
            f"{path} is not written, since what can be stored of this network gives other numbers than it does, or "
            "they are no numbers: choose another --format, or another checkpoint."
        )


def card_of(path: pathlib.Path) -> pathlib.Path:
    """Where the model card of a file lies."""
    return path.with_name(f"{path.name}.md")


def _write(path: pathlib.Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, content)
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}): choose another place with --out.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl_jax export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="folder of the run, or a file written before; also as the first argument")
    source.add_argument("--import", dest="checkpoint", metavar="PATH", help="checkpoint of another project")
    parser.add_argument("--format", choices=FORMATS, help="with --workdir (default: safetensors; onnx with --head)")
    parser.add_argument(
        "--head", help="of a dense evaluation, as depth/linear, or its file: one graph with the backbone"
    )
    parser.add_argument("--out", help="file to write")
    there = parser.add_argument_group("with --import")
    there.add_argument("--arch", help="resnet18 ... resnet200, vit_tiny ... vit_large")
    there.add_argument("--heads", type=int, default=0, help="of a transformer, if not the size's own")
    there.add_argument("--linear-stem", action="store_true", help="a 3x3 stem without ReLU (lightly's CIFAR nets)")
    there.add_argument("--prefix", help="of the network's names, where the checkpoint holds several")
    for name, (kind, words) in _VIEW.items():
        there.add_argument(f"--{name}", type=kind, help=words)
    return parser


@explained
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    speak_plainly()
    argv = command_line.with_names(sys.argv[1:] if argv is None else argv, "workdir")
    args = _parser().parse_args(argv)
    path = export(args.workdir, args.format, args.out, args.head) if args.workdir else _import(args)
    print(f"The {'network' if args.head else 'backbone'} is {path}, its model card {card_of(path)}.")
    return 0


def _import(args: argparse.Namespace) -> pathlib.Path:
    if not args.arch or not args.out:
        raise UserError("--import needs --arch=NAME and --out=FILE.npz as well.")
    view = {name: getattr(args, name) for name in _VIEW if getattr(args, name) is not None}
    network = {"heads": args.heads, "linear_stem": args.linear_stem, "prefix": args.prefix}
    path, dropped = bring_in(args.checkpoint, args.arch, args.out, view, **network)
    if dropped:
        more = ", ..." if len(dropped) > 8 else ""
        print(f"Left behind, as no part of the backbone: {', '.join(dropped[:8])}{more} ({len(dropped)} in all).")
    return path


modules.make_callable(__name__, export)

if __name__ == "__main__":
    sys.exit(main())
