"""What a run's network sees and answers: views, the method's pictures, first filters and feature maps."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import batch
from ssl_jax.augment.render import render_batch
from ssl_jax.evals.features import extractor
from ssl_jax.evals.run import restore
from ssl_jax.methods.contract import Method
from ssl_jax.report import page
from ssl_jax.report.page import Absent, Cell, Empty
from ssl_jax.report.runs import Files
from ssl_jax.run import Run, prepare

_IMAGES = 6  # whose views and pictures are shown
_STRIP = 10  # views in a row
_FILTERS = 64
_MAPS = 8  # channels shown of a stage


@dataclasses.dataclass(frozen=True)
class Network:
    """The newest checkpoint of a run, on the host, and its data."""

    run: Run
    step: int
    params: Any
    state: Any

    @functools.cached_property
    def extract(self) -> Any:
        """Features of images `[N, H, W, C]`, as evaluation has them."""
        features = extractor(self.run.method, self.run.eval_view, self.run.mesh, 256)
        return functools.partial(features, self.params, self.state)

    @functools.cached_property
    def batch(self) -> tuple[np.ndarray, dict[str, jax.Array], jax.Array]:
        """The first images of the newest update, the views that the network saw of them, and the update's key."""
        before = max(self.step - 1, 0)
        key = jax.random.fold_in(jax.random.key(self.run.config.seed), before)
        return *batch.example(self.run, before, _IMAGES), key


def restored(files: Files) -> Network:
    """Restores a run.

    Raises:
      UserError: if its data is not to be had, or it has no checkpoint yet.
    """
    run = prepare(files.config)
    ts = restore(run, files.workdir)
    return Network(run, int(ts.step), *jax.device_get((ts.params, ts.state)))


def views(network: Network) -> str:
    """Images of the newest update, and each view of them as the network saw it."""
    run, found = network.run, network.batch[1]
    recipes = run.method.views()
    side = max(view.size for view in recipes.values())
    rows = []
    for part, fields in ({"": found} if "" in run.sampler.parts else found).items():
        before = f"{part}: " if part else ""
        images = run.train.pictures(np.asarray(fields["index"]).reshape(-1)[:_STRIP], side)
        rows.append([Cell(image / 255.0, "" if i else f"{before}image") for i, image in enumerate(images)])
        for name, view in batch.views_of(recipes, part).items():
            seen = _strip(np.asarray(fields[name])) * np.array(view.std) + np.array(view.mean)
            rows.append([Cell(x, "" if i else f"{before}{name}") for i, x in enumerate(seen)])
    text = f"Images of update {max(network.step, 1)}, and below them their views in that update, before normalisation."
    return page.note(text) + page.pictures((), rows)


def _strip(images: np.ndarray) -> np.ndarray:
    """The first images of an array [..., H, W, C]: of an episode or a clip those that belong together."""
    return images.reshape(-1, *images.shape[-3:])[:_STRIP]


def pictures(network: Network) -> str:
    """What the method's own `pictures` show.

    Raises:
      Empty: if it shows nothing.
    """
    method = network.run.method
    _, batch, rng = network.batch
    found = method.pictures(network.params, network.state, batch, rng=rng)
    if not found:
        raise Absent(f"{type(method).__name__} has no pictures of its own to show.")
    return "".join(map(page.picture, found))


def filters(network: Network) -> str:
    """Filters of the first convolution, or of a transformer's patches, each stretched to [0, 1].

    Raises:
      Empty: if the backbone begins with something else.
    """
    params = network.run.method.variables(network.params, network.state)["params"]
    module = network.run.method.backbone
    # Of split_brain's halves, that which sees lightness.
    kernel = module.filters(params.get("first", params))
    if kernel is None:
        raise Empty(f"A {type(module).__name__} does not begin with a convolution whose filters could be drawn.")
    kernel = np.moveaxis(kernel, -1, 0)
    strongest = np.sort(np.argsort(-np.abs(kernel).sum((1, 2, 3)), kind="stable")[:_FILTERS])
    cells = [Cell(_stretched(kernel[i], "gray")) for i in strongest]
    rows = [cells[i : i + 8] for i in range(0, len(cells), 8)]
    text = f"{len(cells)} of {len(kernel)} filters of {kernel.shape[1]}x{kernel.shape[2]} pixels"
    if len(cells) < len(kernel):
        text += ", those of the largest weights"
    return page.note(f"{text}. Gray is 0.") + page.pictures((), rows, width=40)


def _stretched(x: np.ndarray, zero: str = "") -> np.ndarray:
    """To [0, 1]; with `zero` so that 0 becomes the middle."""
    if zero:
        return 0.5 + 0.5 * x / max(np.abs(x).max(), 1e-12)
    return (x - x.min()) / max(np.ptp(x), 1e-12)


def feature_maps(network: Network, index: int) -> str:
    """Channels of each stage for one test image (one of the training images where there is no test split).

    Raises:
      Empty: if there is no such image, or the method hides the image from its network.
    """
    method, data = network.run.method, network.run.test or network.run.train
    if not 0 <= index < len(data.images):
        raise Empty(f"There is no image {index}: choose one below {len(data.images)} with --image.")
    if type(method).encode is not Method.encode:
        raise Empty(
            f"{type(method).__name__} changes images before its backbone sees them, so there are no maps of one."
        )
    image = data.pictures(np.array([index]), network.run.eval_side)
    seen = render_batch(network.run.eval_view, jax.random.split(jax.random.key(0), 1), jnp.asarray(image))
    outputs = stage_outputs(method, network.params, network.state, seen)
    rows = []
    for stage, maps in outputs.items():
        chosen = np.argsort(-maps.std((0, 1)), kind="stable")[:_MAPS]
        cells = [Cell(_stretched(maps[..., c : c + 1])) for c in chosen]
        rows.append([Cell(image[0] / 255.0, f"stage {stage}: {maps.shape[0]}x{maps.shape[1]}"), *cells])
    text = f"Image {index}: the {_MAPS} channels of each stage that vary most over it, black lowest, white highest."
    return page.note(text) + page.pictures((), rows, width=72)


def stage_outputs(method: Method, params: Any, state: Any, images: jax.Array) -> dict[int, np.ndarray]:
    """The map of each stage of the backbone for the first image, [h, w, channels].

    Args:
      method: whose backbone runs.
      params: of the run.
      state: of the run.
      images: normalised [1, H, W, C].
    """
    variables, module = method.variables(params, state), method.backbone
    found = {}
    for stage in range(1, module.stages + 1):
        maps: Any = module.apply(variables, images, train=False, stage=stage, pool=False)
        found[stage] = np.asarray(maps[0], np.float32)
    return found
