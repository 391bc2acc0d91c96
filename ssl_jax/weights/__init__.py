"""A pretrained backbone without the run that made it: in memory, in a file, and read back.

A file holds the parameter tree under its own names (`params/stem/kernel`, `stats/stem_norm/batch/mean`; .npz or
.safetensors), or a state dict under torchvision's or timm's names (.safetensors). Either carries, as JSON under the
name `ssl_jax`, what makes the numbers a function of images: the network, and how it wants to see an image.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
from typing import Any

from etils import epath
import flax
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models
from ssl_jax.augment.render import render_batch
from ssl_jax.augment.view import View
from ssl_jax.data import train_test
from ssl_jax.data.reading import Reading
from ssl_jax.methods import build
from ssl_jax.methods.contract import Method, Variables
from ssl_jax.runtime.errors import UserError
from ssl_jax.runtime.modules import subclass
from ssl_jax.weights import arrays_file, pictures, torch_names
from ssl_jax.workdir.checkpoint import Checkpoints
from ssl_jax.workdir.config import load as load_config

_LARGEST = 256  # images at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen backbone: call it on images.

    `method.encode(backbone.variables, images)` is what evaluation calls.
    """

    method: Method
    params: Any  # of the network
    stats: Any  # running statistics of the network; empty without BatchNorm
    view: View  # how it sees an image
    origin: dict[str, Any]  # where it comes from, for the model card: names to plain values

    def __repr__(self) -> str:
        kind = str(self.origin.get("method", "imported"))
        network = f"{type(self.module).__name__}, {self.view.size} pixels of {self.takes} channel(s)"
        return f"Backbone({kind}: {network})"

    @property
    def module(self) -> models.Backbone:
        """The network."""
        return self.method.backbone

    @property
    def variables(self) -> Variables:
        """The network's, as `method.encode` takes them."""
        return {"params": self.params, "batch_stats": self.stats}

    @property
    def plain(self) -> bool:
        """Whether features are the network's output on the whole image, nothing before and nothing after."""
        mean = self.method.pools_map and not self.module.pools_map  # instead of the class token
        return type(self.method).encode is Method.encode and not mean

    @property
    def halves(self) -> bool:
        """Whether it is two networks, as split_brain has them, for which other formats have no name."""
        return "first" in self.params

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        parts = list(self.params.values()) if self.halves else [self.params]
        return sum(self.module.channels(part) for part in parts)

    @property
    def takes(self) -> int:
        """Channels of the images, of which the method may give the network a part."""
        return 3 if "colour" in self.method.needs else self.channels

    @property
    def side(self) -> int:
        """Side in pixels of the square that its view is cut from."""
        return round(self.view.size / self.view.centre)

    @property
    def reading(self) -> Reading:
        """How the pixels of image files are taken: as those that it was trained on, or the first so many channels."""
        said = Reading(**train_test.pixels_of(self.origin.get("config", {}).get("data", {})))
        if said.channels is None and self.takes not in (1, 3):
            return dataclasses.replace(said, channels=tuple(range(self.takes)))
        return said

    def __call__(self, images: Any, stage: int | None = None) -> np.ndarray:
        """Features of images, seen as the run's evaluation sees them.

        Args:
          images: [N, H, W, C], uint8, or floating point in [0, 1], any N; or a path or a Pillow image, or a list.
          stage: residual stage (or quarter of a transformer) whose output is wanted; default the last.

        Returns:
          float32 [N, D].

        Raises:
          UserError: if these are no such images, or there is no such stage.
        """
        images = self._checked(pictures.as_array(images, self.side, self.takes, self.reading), stage)
        # Powers of two, so that few programs serve any number of images.
        block = min(_LARGEST, 1 << max(len(images) - 1, 0).bit_length())
        parts = []
        for start in range(0, max(len(images), 1), block):
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * 3)
            out = self._features(stage, self.variables, padded)
            parts.append(np.asarray(out)[: len(part)])
        return np.concatenate(parts)

    def bare(self, images: np.ndarray) -> np.ndarray:
        """The network's own features [N, D] of normalised images [N, H, W, C], as other programs compute them."""
        # In the precision that files of others have.
        method = dataclasses.replace(self.method, backbone=self.module.clone(dtype=jnp.float32))
        encode = functools.partial(Method.encode, method)
        return np.asarray(jax.jit(encode)(self.variables, jnp.asarray(images))[0].pooled)

    @functools.cached_property
    def _features(self) -> Callable[..., jax.Array]:
        """`(stage, variables, images) -> features`, compiled."""

        def features(stage: int | None, variables: Variables, images: jax.Array) -> jax.Array:
            keys = jax.random.split(jax.random.key(0), len(images))  # the view draws nothing; `render` wants a key
            x = render_batch(self.view, keys, jnp.asarray(images))
            return self.method.encode(variables, x, stage=stage)[0].pooled

        return jax.jit(features, static_argnums=0)

    def _checked(self, images: np.ndarray, stage: int | None) -> np.ndarray:
        stages = self.module.stages
        if stage is not None and not 1 <= stage <= stages:
            raise UserError(f"There is no stage {stage} in this backbone: ask for 1 to {stages}.")
        if images.ndim != 4 or not all(images.shape[1:]):
            raise UserError(
                f"Images must be [N, H, W, C], but have shape {images.shape}: add the axes that are missing."
            )
        if images.shape[-1] != self.takes:
            raise UserError(
                f"Images have {images.shape[-1]} channel(s) where this backbone wants {self.takes}: the last axis "
                "must be the channels; repeat a single one, or convert to gray."
            )
        if images.dtype == np.uint8:
            return images
        if not np.issubdtype(images.dtype, np.floating):
            raise UserError(f"Images are of type {images.dtype}: give uint8, or floating point in [0, 1].")
        if images.size and not (images.min() >= 0 and images.max() <= 1):
            raise UserError(
                f"Images of floating point must lie in [0, 1], but go from {images.min():.3g} to {images.max():.3g}: "
                "give them before normalisation, or as uint8."
            )
        return images.astype(np.float32)


def load(path: str | epath.Path) -> Backbone:
    """Loads the backbone of a run, without its data set, or of a file that `save` or `ssl_jax.export` wrote.

    Args:
      path: a workdir, or a .npz or .safetensors file.

    Raises:
      UserError: if there is none, or it cannot be read.
    """
    path = epath.Path(path)
    if path.is_dir():
        return _of_run(path)
    if not path.is_file():
        raise UserError(f"There is no backbone at {path}: give the workdir of a run, or a .npz or .safetensors file.")
    arrays, text = arrays_file.read(path)
    if text is None:
        raise UserError(
            f"{path} does not say what network it holds: bring a checkpoint of others into a file of ours first, with "
            "python -m ssl_jax.export --import=PATH --arch=NAME --out=FILE.npz."
        )
    try:
        return _of_file(arrays, json.loads(text))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged description makes the code that builds the network raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} describes no backbone ({type(error).__name__}: {reason}): copy it anew, or export it again."
        ) from error


def _of_run(folder: epath.Path) -> Backbone:
    config = load_config(str(folder))
    method = build.method(config.method, models.from_config(config.model))
    checkpoints = Checkpoints(folder)
    try:
        shapes = checkpoints.shapes()
        found = None if shapes is None else checkpoints.restore(shapes)
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(f"There is no checkpoint in {folder}/checkpoints: let the run write one first.")
    step, ts = found
    variables = jax.device_get(method.variables(ts["params"], ts["state"]))
    origin = {"method": config.method.name, "step": step, "config": json.loads(config.to_json())}
    view = method.eval_view(config.data.eval_centre)
    return Backbone(method, variables["params"], variables["batch_stats"], view, origin)


def _of_file(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Backbone:
    module = _module(meta["network"])
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["view"].items()}
    view = View(**fields)
    method = build.method(meta["method"], module) if meta["method"] else Method(module)
    if meta["method"]:  # files of earlier versions have the normalisation of CPC's patches, which `encode` now does
        trained = method.primary_view()
        view = dataclasses.replace(view, mean=trained.mean, std=trained.std)
    if meta["names"] == "ours":
        nested = flax.traverse_util.unflatten_dict(arrays, sep="/")
        return Backbone(method, nested["params"], nested.get("stats", {}), view, meta["origin"])
    module = module.torch_twin()
    method = dataclasses.replace(method, backbone=module)
    params, stats = torch_names.from_torch(arrays, module)
    return Backbone(method, params, stats, view, meta["origin"])


def save(path: str | epath.Path, backbone: Backbone, names: str = "ours") -> None:
    """Writes a backbone into a file that `load` reads.

    Args:
      path: ends in .npz or .safetensors.
      backbone: what to write.
      names: 'ours' for the parameter tree, 'torchvision' or 'timm' for a state dict under their names.

    Raises:
      UserError: for a network that these names do not cover, another ending, or a place that cannot be written.
    """
    path = epath.Path(path)
    if names == "ours":
        tree = {"params": backbone.params, "stats": backbone.stats}
        arrays = flax.traverse_util.flatten_dict(tree, sep="/")
    else:
        refuse_halves(backbone, names)
        arrays = torch_names.to_torch(backbone.params, backbone.stats, backbone.module, names, backbone.view.size)
    meta = {
        "names": names,
        "network": _description(backbone.module),
        "method": None if backbone.plain else backbone.origin["config"]["method"],
        "view": dataclasses.asdict(backbone.view),
        "origin": backbone.origin,
    }
    arrays_file.write(path, {k: np.ascontiguousarray(v) for k, v in arrays.items()}, json.dumps(meta))


def refuse_halves(backbone: Backbone, names: str) -> None:
    """Refuses, with a `UserError`, two networks under names that are those of one."""
    if backbone.halves:
        raise UserError(f"{names} has no network of two halves, as this one: use the format npz or safetensors.")


def _description(module: models.Backbone) -> dict[str, Any]:
    """A network as JSON: its fields and its class, 'resnet.ResNet' in `ssl_jax.models` or 'my_project.my_net:MyNet'."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    place, name = type(module).__module__, type(module).__name__
    inside = place.removeprefix(f"{models.__name__}.")
    path = f"{place}:{name}" if inside == place else f"{inside}.{name}"
    return {"class": path, **fields, "dtype": jnp.dtype(fields["dtype"]).name}


def _module(description: dict[str, Any]) -> models.Backbone:
    fields = dict(description)
    path = fields.pop("class")
    place, _, name = path.partition(":") if ":" in path else f"{models.__name__}.{path}".rpartition(".")
    cls = subclass(models.Backbone, place, "The network of the weights")
    if cls.__name__ != name:
        raise UserError(f"The weights are of a {path}, and {place} has a {cls.__name__}: use the code that wrote them.")
    return cls(**{**fields, "dtype": jnp.dtype(fields["dtype"])})
