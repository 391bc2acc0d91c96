"""What an evaluation is given: networks, images, and the features that are extracted once for all evaluations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from ssl_jax import data
from ssl_jax.data import loader, loading, train_test
from ssl_jax.evals.cache import FeatureCache
from ssl_jax.evals.features import stage_extractor
from ssl_jax.methods.contract import Picture, Variables
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.recipes import base
from ssl_jax.run import Run
from ssl_jax.runtime.errors import UserError
from ssl_jax.state import TrainState
from ssl_jax.weights.dense_head import DenseHead
from ssl_jax.workdir.fingerprint import fingerprint
from ssl_jax.workdir.results import Result

Pair = tuple[np.ndarray, np.ndarray]  # of the training and of the test images
Images = tuple[data.Dataset, data.Dataset]  # training and test split

LABELLED = frozenset(("labels", "test images"))  # what most evaluations need

# Bytes of images that are a representation of their own; in float32, scaled and copied they take up to 12 times that.
MOST_PIXELS = 2**30


@dataclasses.dataclass(frozen=True)
class Features:
    """Frozen features of one data set, (training [N, D], test [M, D]) by representation, with labels."""

    pretrained: Pair
    untrained: Pair
    pixels: Pair | None  # None for streamed images, which are no vectors of one length, and for too many
    labels: Pair
    classes: int
    supervised: Pair | None = None
    # By representation, after each stage; `prepare` may have kept a few training images alone of all but the last.
    stages: Mapping[str, list[Pair]] = dataclasses.field(default_factory=dict)

    def backbones(self) -> dict[str, Pair]:
        """Features by name of the backbone."""
        found = {"pretrained": self.pretrained, "untrained": self.untrained}
        return found if self.supervised is None else found | {"supervised": self.supervised}

    def with_pixels(self) -> dict[str, Pair]:
        """`backbones`, and raw pixels where there are such."""
        return self.backbones() if self.pixels is None else self.backbones() | {"pixels": self.pixels}


@dataclasses.dataclass(frozen=True)
class Network:
    """A backbone that is evaluated, with the run it comes from."""

    run: Run
    ts: TrainState

    @property
    def variables(self) -> Variables:
        """Those of the backbone, as `encode` takes them."""
        return self.run.method.variables(self.ts.params, self.ts.state)


@dataclasses.dataclass(frozen=True)
class Context:
    """What evaluations measure."""

    networks: Mapping[str, Network]  # 'pretrained', 'untrained', and 'supervised' where there is one to compare with
    images: Images  # those with a label, if any evaluation needs labels
    features: Features
    tune_epochs: int | None = None  # of fine-tuning; None: `fine_tune.EPOCHS`
    frozen: tuple[int, ...] = ()  # stages that fine-tuning copies, once frozen and once not
    pictures: list[Picture] = dataclasses.field(default_factory=list)  # of the evaluation at hand, for the report
    heads: list[DenseHead] = dataclasses.field(default_factory=list)  # that it trained, for the workdir

    @property
    def run(self) -> Run:
        """The pretrained run."""
        return self.networks["pretrained"].run

    @property
    def config(self) -> Any:
        """The config of the pretrained run."""
        return self.run.config

    @property
    def common(self) -> dict[str, Any]:
        """Arguments that most measures want."""
        return {"num_classes": self.features.classes, "seed": self.config.seed}

    def each(
        self,
        name: str,
        measure: Callable[..., Mapping[str, Any]],
        *,
        pixels: bool = False,
        main: Sequence[str] | None = None,
    ) -> list[Result]:
        """`measure(train_x, train_y, test_x, test_y)` of every representation.

        Args:
          name: of the evaluation.
          measure: returns shares by name.
          pixels: of raw pixels as well.
          main: which of them are measures and not details; None: all.
        """
        train_y, test_y = self.features.labels
        representations = self.features.with_pixels() if pixels else self.features.backbones()
        return [
            Result(f"{name}/{key}", value, of, detail=main is not None and key not in main)
            for of, (x, y) in representations.items()
            for key, value in measure(x, train_y, y, test_y).items()
        ]


def load_images(run: Run, source: str | None = None, path: str | None = None) -> Images:
    """The images that a run is evaluated on: its own, or another source's in the size of its views.

    Args:
      run: from `run.prepare`.
      source: as `config.data.source`; None for the run's own data.
      path: as `config.data.path`, for the source.

    Returns:
      training and test split with the run's number of channels; a split that the source lacks has no images.

    Raises:
      UserError: if the source cannot be loaded.
    """
    found, test = run.train, run.test
    if source is not None:
        config = run.config.copy_and_resolve_references()
        size = None if loading.card(source).whole_images else run.eval_side
        with config.ignore_type(), config.unlocked():
            pages = "first" if config.data.pages == "all" else config.data.pages
            own = {"stream": "auto", "label_noise": 0.0, "target_labels": 0, "pages": pages}
            own |= dict.fromkeys(("per_class", "target", "image", "label", "labels"))
            held = config.data.holdout or base.fields().data.holdout  # nothing of this source is trained on
            config.data.update(source=source, path=path, size=size, holdout=held, **own)
        found, test = train_test.load(config.data)
    channels = run.train.image_shape[-1]
    return _recoloured(found, channels), _recoloured(found[:0] if test is None else test, channels)


def _recoloured(d: data.Dataset, channels: int) -> data.Dataset:
    """A data set with so many channels: grey is repeated, colour becomes its luma (ITU-R 601)."""
    if d.image_shape[-1] == channels:
        return d
    if d.streamed:
        raise UserError(
            f"The run saw grey images, and {d.name} is streamed in colour: make it fit in memory with "
            "--config.data.max_gib, or evaluate a run of colour images on it."
        )
    grey = d.images if channels == 3 else np.round(d.images @ [0.299, 0.587, 0.114])[..., None].astype(np.uint8)
    return dataclasses.replace(d, images=np.repeat(grey, 3, axis=-1) if channels == 3 else grey)


def in_memory(d: data.Dataset, limit: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C] and labels [n] for what wants them as arrays.

    Args:
      d: one split; if it is held in memory, all of it is returned.
      limit: most images of a streamed one, evenly spaced.
      side: of the centre squares that its images become.
    """
    if not d.streamed:
        return d.images, d.labels
    rows = evenly_spaced(np.arange(len(d.images)), limit)
    return d.pictures(rows, side), d.labels[rows]


def lacking(images: Images) -> set[str]:
    """Which of 'labels', of some images of each split, 'test images' and 'mask' there are none of."""
    labels = len(images[0].classes) > 1 and all((d.labels >= 0).any() for d in images if len(d.images))
    there = {"labels": labels, "test images": len(images[1].images), "mask": all("mask" in d.fields for d in images)}
    return {name for name, found in there.items() if not found}


def with_labels(images: Images, classes: Sequence[int] = ()) -> Images:
    """The images that have a label, or one of some classes, which are then counted from 0.

    Args:
      images: training and test split.
      classes: labels to keep; (): all.

    Raises:
      UserError: if a split has none, or there is no such class.
    """
    names = images[0].classes
    if len(names) < 2 or not len(images[1].images):
        raise UserError(
            f"Evaluation needs labels and a test split, which {images[0].name} lacks: sort its images into two class "
            "folders or more (under train/ and test/ for a run that held none out), or ask for --evals=health alone."
        )
    if unknown := [c for c in classes if not 0 <= c < len(names)]:
        raise UserError(
            f"--classes has {unknown[0]}, but the classes of {images[0].name} are 0 to {len(names) - 1}: name some."
        )
    kept = tuple(classes) or tuple(range(len(names)))
    found = []
    for split in images:
        rows = np.isin(split.labels, kept)
        if not rows.any():
            raise UserError(f"Evaluation needs labelled images in both train and test of {split.name}.")
        places = np.zeros(len(names), np.int32)
        places[list(kept)] = np.arange(len(kept))
        if not rows.all():  # a copy, of what may be most of the memory
            split = split[rows]
        found.append(dataclasses.replace(split, labels=places[split.labels], classes=tuple(names[c] for c in kept)))
    return found[0], found[1]


def prepare(
    run: Run,
    ts: TrainState,
    images: Images,
    *,
    cache: FeatureCache | None = None,
    few: int | None = None,
    extracted: bool = True,
    supervised: Network | None = None,
    tune_epochs: int | None = None,
    frozen: Sequence[int] = (),
) -> Context:
    """Extracts the features of a run's network, of the same one untrained, and of a supervised one.

    Args:
      run: from `run.prepare`.
      ts: its state.
      images: what to extract them of.
      cache: where features are kept; None extracts them anew.
      few: so many evenly spaced training images, and no test images, are kept of the earlier stages; None: all.
      extracted: whether features are wanted at all; False: they have no channels, and there are no stages.
      supervised: a run of the method supervised, as another representation.
      tune_epochs: as `Context` has it.
      frozen: likewise.
    """
    networks = {"pretrained": Network(run, ts), "untrained": Network(run, run.init())}
    networks |= {} if supervised is None else {"supervised": supervised}
    if not extracted:
        none = _pair(np.zeros((len(d), 0), np.float32) for d in images)
        features = Features(none, none, None, _pair(d.labels for d in images), len(images[0].classes))
        return Context(networks, images, features, tune_epochs, tuple(frozen))
    seen = "" if cache is None else fingerprint([fingerprint(_contents(d)) for d in images])
    stages = {name: _stages(network, images, name, cache, seen, few) for name, network in networks.items()}
    features = Features(
        pretrained=stages["pretrained"][-1],
        untrained=stages["untrained"][-1],
        supervised=stages["supervised"][-1] if supervised is not None else None,
        pixels=_pixels(images),
        labels=_pair(d.labels for d in images),
        classes=len(images[0].classes),
        stages=stages,
    )
    return Context(networks, images, features, tune_epochs, tuple(frozen))


def _pixels(images: Images) -> Pair | None:
    if any(d.streamed for d in images):
        return None
    if (size := sum(d.images.nbytes for d in images)) > MOST_PIXELS:
        print(f"Raw pixels are not measured beside the features: {size / 2**30:.1f} GiB of images are too many.")
        return None
    return _pair(d.images.reshape(len(d.images), math.prod(d.images.shape[1:])) for d in images)


def _pair(arrays: Iterable[np.ndarray]) -> Pair:
    train_part, test_part = arrays
    return train_part, test_part


def _stages(
    network: Network, images: Images, name: str, cache: FeatureCache | None, seen: str, few: int | None
) -> list[Pair]:
    """Features after each stage, of training and test images; `seen` tells these images from others."""
    run, ts = network.run, network.ts
    extract = stage_extractor(run.method, run.eval_view, run.mesh, workers=loader.workers(run.config.data.workers))

    def make() -> list[np.ndarray]:
        most = (few, None if few is None else 0)
        return [x for d, m in zip(images, most, strict=True) for x in extract(ts.params, ts.state, d.images, most=m)]

    count = run.method.backbone.stages
    if cache is None:
        arrays = make()
    else:
        contents = [fingerprint(network.variables), seen, repr(run.eval_view)]
        contents += [] if few is None else [f"{few} training images of the earlier stages"]
        arrays = cache.get(name, int(ts.step), fingerprint(contents), 2 * count, make)
    return list(zip(arrays[:count], arrays[count:], strict=True))


def _contents(d: data.Dataset) -> Any:
    """What tells one split's images from others: their pixels, or where streamed ones lie."""
    return [d.name, d.images.content, d.images.rows, str(d.images.size)] if d.streamed else d.images
