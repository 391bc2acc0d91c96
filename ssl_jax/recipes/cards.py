"""One training card a data set: its source, the backbone, the epochs, and how its images are augmented.

A folder of the user's own photographs is a preset as well, `folder:PATH`.

A card makes presets of all methods: where a method has no recipe for it, `defaults.py` and the method's own file here
derive one. A new data set of small images needs no card here: a file in `ssl_jax/data/sources` with the facts (its
`CARD`) is enough, and its name is a preset of all methods, with the backbone and the epochs of `Card` and
`base.py`. What should differ is written below:

    "mnist": small_images("mnist", epochs=20, model={"name": "convnet", "width": 32}),
"""

from dataclasses import replace
from typing import Any

from ssl_jax import data
from ssl_jax.augment import recipes
from ssl_jax.augment.view import IMAGENET_MEAN, IMAGENET_STD, View
from ssl_jax.data import train_test
from ssl_jax.recipes import base
from ssl_jax.recipes.domains import DOMAINS
from ssl_jax.recipes.layer import Card
from ssl_jax.recipes.videos import VIDEOS
from ssl_jax.runtime.errors import UserError

LARGEST = 128  # side up to which images are small, pixels


def small_images(source: str, facts: data.Card | None = None, **changes: Any) -> Card:
    """A card of square images of up to `LARGEST` pixels.

    Args:
      source: as `config.data.source`.
      facts: side, mean, std and mirrors of the images; None: what the source's own card says.
      **changes: fields of `Card`, instead of those that are derived here.

    Raises:
      UserError: for an unknown source, or one whose images are not small, or about which too little is known.
    """
    facts = facts or data.card(source)
    if not facts.side or not facts.mean or not facts.std or facts.side > LARGEST:
        raise UserError(
            f"There are no presets for the data source '{source}': its card must say mean, std and side, {LARGEST} "
            "pixels at most. Take a preset of similar images, and set config.data.source and config.data.size."
        )
    look: dict[str, Any] = {"size": facts.side, "flip": 0.5 * bool(facts.mirrors)}
    look |= {"mean": facts.mean, "std": facts.std}
    if len(facts.mean) == 1:
        strong = weak = replace(recipes.FASHION, **look)
    else:
        strong = replace(recipes.LIGHTLY_SIMCLR, **look)
        weak = replace(recipes.ROTNET_CIFAR, pad=facts.side // 8, **look)
    usual: dict[str, Any] = {"about": f"{facts.side}x{facts.side} images.", "strong": strong, "weak": weak}
    return Card(source=source, side=facts.side, channels=len(facts.mean), **(usual | changes))


_SEEN = 100_000  # images times epochs of a run on own photographs
_SIDE = 96  # of own photographs, pixels
_FEWEST = 8


def photographs(source: str) -> Card:
    """A card of the user's own photographs: batch size and epochs fit their number.

    Args:
      source: folder:PATH.

    Raises:
      UserError: if there are no images, or fewer than make a batch.
    """
    usual = base.fields().data
    count = train_test.count(source, usual.holdout, usual.holdout_seed)
    if count < _FEWEST:
        raise UserError(f"{source} has {count} training images besides those held out: at least {_FEWEST} are needed.")
    epochs = min(max(round(_SEEN / count), 10), 200)
    every = max(epochs / 10, 1.0)  # epochs between evaluations, and between checkpoints
    return small_images(
        source,
        data.Card(side=_SIDE, mean=IMAGENET_MEAN, std=IMAGENET_STD, mirrors=True),
        epochs=epochs,
        batch_size=1 << (min(count, 256).bit_length() - 1),
        data={"size": _SIDE},
        model={"width": 32, "stem": "imagenet"},
        eval={"knn_k": 20},
        run={"eval_epochs": every, "save_epochs": every},
    )


def find(name: str) -> Card:
    """The card of a preset: the one below, or one that is derived from the data source of that name.

    Raises:
      UserError: if there is neither.
    """
    if name in CARDS:
        return CARDS[name]
    return photographs(name) if name.partition(":")[0] == "folder" else small_images(name)


# SGD on all parameters, cosine stepped per epoch, as lightly's CIFAR-10 benchmark has it: 0.06 times N / 128.
LIGHTLY_SGD = {"learning_rate": 0.12, "weight_decay": 5e-4, "per_epoch": True}
SMALL_SGD = {**LIGHTLY_SGD, "scaling": "none"}
LIGHTLY_MODEL = {"stem": "small_linear", "conv_init": "torch"}

_STREETS = View(size=64, area=(0.08, 0.25), flip=0.5, mean=(0.4134, 0.4266, 0.4340), std=(0.3018, 0.3058, 0.3015))


CARDS = {
    "digits": Card(
        about="8x8 digits of scikit-learn: a small convnet, seconds an epoch on a CPU.",
        source="digits",
        side=8,
        channels=1,
        strong=recipes.DIGITS,
        weak=replace(recipes.DIGITS, degrees=0.0, shear=0.0),  # a turned digit has no upright
        sgd={"learning_rate": 0.3, "weight_decay": 1e-4},
        model={"name": "convnet", "width": 32},
        eval={"knn_k": 20},
        run={"eval_epochs": 10.0, "save_epochs": 25.0},
    ),
    "photo_tiles": Card(
        about="32x32 tiles of two photographs of scikit-learn: a small convnet, where digits are too small.",
        source="photo_tiles",
        side=32,
        strong=recipes.LIGHTLY_SIMCLR,
        weak=recipes.ROTNET_CIFAR,
        epochs=10,
        model={"name": "convnet", "width": 32},
        eval={"knn_k": 20},
    ),
    "fashion_mnist": Card(
        about="28x28 clothes in gray: a ResNet-18 of 16 channels.",
        source="fashion_mnist",
        side=28,
        channels=1,
        strong=recipes.FASHION,
        weak=recipes.FASHION,
        epochs=20,
        model={"width": 16},
    ),
    "cifar10": Card(
        about="32x32 photographs: the ResNet-18 of the literature.",
        source="cifar10",
        side=32,
        strong=recipes.LIGHTLY_SIMCLR,
        weak=recipes.ROTNET_CIFAR,
        epochs=1000,
        batch_size=512,
        run={"eval_epochs": 10.0, "save_epochs": 10.0},
    ),
    "cifar10_small": Card(
        about="10,000 images of CIFAR-10, a ResNet-18 of 16 channels, 20 epochs: half an hour on two CPU cores.",
        source="cifar10",
        side=32,
        strong=recipes.LIGHTLY_SIMCLR,
        weak=recipes.ROTNET_CIFAR,
        epochs=20,
        data={"per_class": 1000},
        model={"width": 16, **LIGHTLY_MODEL},
        optim=SMALL_SGD,
        eval={"knn_k": 20},
        run={"save_epochs": 1.0},
    ),
    "cifar10_lightly": Card(
        about="The CIFAR-10 benchmark of lightly: ResNet-18, 200 epochs of 512 images; numbers are of the best epoch.",
        source="cifar10",
        side=32,
        benchmark=True,
        epochs=200,
        batch_size=512,
        model=LIGHTLY_MODEL,
        optim=LIGHTLY_SGD,
        run={"eval_epochs": 5.0, "save_epochs": 5.0},
    ),
    # Prepared by tfds as ArrayRecord, or with `--config.data.source=folder:PATH`: a folder of train/CLASS/*.JPEG and
    # val/CLASS/*.JPEG, or of train/*.tar and val/*.tar with such class folders inside. Crops are taken from the whole
    # image, as the authors do, so `data.size` stays unset.
    "imagenet": Card(
        about="ILSVRC 2012 with a ResNet-50 at 224 pixels, streamed since its images differ in size.",
        source="tfds:imagenet2012",
        side=224,
        batch_size=4096,
        data={"eval_centre": 0.875},
        # bfloat16: twice the images in memory and more a second; parameters and losses stay float32.
        model={"name": "resnet50", "stem": "imagenet", "dtype": "bfloat16"},
        eval={"knn_temperature": 0.07, "knn_k": 20},
    ),
    # Prepared by tfds, or a folder, as for "imagenet".
    "imagenette": Card(
        about="Ten easy classes of ImageNet, 9,469 images, streamed since they differ in size.",
        source="tfds:imagenette/full-size-v2",
        side=128,
        benchmark=True,
        data={"eval_centre": 0.875},
        model={"name": "vit_small", "dtype": "bfloat16"},
        eval={"knn_k": 20},
        run={"eval_epochs": 10.0, "save_epochs": 10.0},
    ),
    **DOMAINS,
    "omniglot": Card(
        about="28x28 characters of many alphabets, 20 drawings each; every turn by 90 degrees is a class of its own.",
        source="omniglot:rotated",
        side=28,
        channels=1,
        benchmark=True,
        weak=View(size=28, crop="centre", order=("crop",), mean=(0.0,), std=(1.0,)),
        model={"name": "conv4", "width": 64},
    ),
    "omniglot_small": Card(
        about="The characters of `omniglot` for a Conv-4 of 32 channels: minutes on two CPU cores.",
        source="omniglot:rotated",
        side=28,
        channels=1,
        benchmark=True,
        weak=View(size=28, crop="centre", order=("crop",), mean=(0.0,), std=(1.0,)),
        model={"name": "conv4", "width": 32},
    ),
    "coil100_unseen": Card(
        about="32x32 views of a hundred objects in grey, fifty of them for testing: metric learning of unseen classes.",
        source="coil100:unseen",
        side=32,
        channels=1,
        benchmark=True,
        weak=View(size=32, area=(0.5, 1.0), flip=0.5, mean=(0.2665,), std=(0.2139,)),
        epochs=160,
        batch_size=64,
        data={"size": 32},
        model={"name": "convnet", "width": 32},
        run={"eval_epochs": 0.0, "save_epochs": 40.0},
    ),
    **VIDEOS,
    "camvid": Card(
        about="Street scenes of CamVid, 240x180, in crops of 64 pixels at nearly their own scale: linear segmentation.",
        source="camvid",
        side=64,
        benchmark=True,
        weak=_STREETS,
        epochs=20,
        batch_size=16,
        model={"name": "convnet", "width": 32},
        run={"eval_epochs": 0.0},
    ),
    "scenes": Card(
        about="Rendered rooms of 64 pixels with masks, depth, normals and boundaries: no download.",
        source="scenes:50",
        side=48,
        benchmark=True,
        weak=View(size=48, crop="shift", pad=0, order=("crop",), mean=(0.29,), std=(0.24,)),
        epochs=40,
        batch_size=16,
        data={"size": 64},
        model={"name": "convnet", "width": 32},
        run={"eval_epochs": 0.0},
    ),
    "scenes_dusk": Card(
        about="Rendered rooms of 48 pixels by day, with masks, and without masks at dusk: no download.",
        source="scenes:32",
        side=32,
        benchmark=True,
        has=frozenset({"domains"}),
        weak=View(size=32, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), mean=(0.3,), std=(0.25,)),
        data={"target": "scenes:32-dusk", "size": 48},
        model={"name": "convnet", "width": 16},
    ),
    "camvid_dusk": Card(
        about="Street scenes of CamVid by day, with masks, and without masks at dusk (the sequence 0001TP).",
        source="camvid",
        side=128,
        benchmark=True,
        has=frozenset({"domains"}),
        weak=replace(_STREETS, size=128, crop="shift", pad=0),
        model={"name": "resnet18", "width": 16, "stem": "imagenet", "output_stride": 8},
    ),
}
