"""One training card a data set: its source, the backbone, the epochs, and how its images are augmented.

A card makes presets of all methods: where a method has no recipe for it, `defaults.py` and the method's own file here
derive one. A new data set is a card:

    CARDS["stl10"] = small_images(96, source="tfds:stl10", mean=(0.447, 0.440, 0.407), std=(0.260, 0.257, 0.271))
"""

import dataclasses
from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.recipes.layer import Fields, Layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card(Layer):
    """How networks are trained on a data set."""

    about: str  # one sentence
    source: str  # as `config.data.source`
    side: int  # of a view, pixels
    channels: int = 3
    strong: View | None = None  # of methods that compare views; None: what the method's class has
    weak: View | None = None  # of methods that predict what was done to an image; None: what the method's class has
    sgd: Fields = dataclasses.field(default_factory=lambda: {"learning_rate": 0.12, "weight_decay": 5e-4})
    has: frozenset[str] = frozenset()  # beyond images and labels: 'clips', 'domains'; for methods that need them
    benchmark: bool = False  # a variant of another card, which only methods with a recipe for it have


def small_images(
    side: int, *, source: str, mean: tuple[float, ...], std: tuple[float, ...], mirror: bool = True, **fields: Any
) -> Card:
    """A card of square images of up to about 100 pixels.

    Args:
      side: of the images, pixels.
      source: as `config.data.source`.
      mean: of each channel, of values from 0 to 1.
      std: as `mean`.
      mirror: whether a mirror image is as good as the image: no digits, no text.
      **fields: of `Card`, instead of those that are derived here.
    """
    look: dict[str, Any] = {"size": side, "flip": 0.5 * mirror, "mean": mean, "std": std}
    if len(mean) == 1:
        strong = weak = replace(recipes.FASHION, **look)
    else:
        strong = replace(recipes.LIGHTLY_SIMCLR, **look)
        weak = replace(recipes.ROTNET_CIFAR, pad=side // 8, **look)
    usual: dict[str, Any] = {"about": f"{side}x{side} images.", "strong": strong, "weak": weak}
    return Card(source=source, side=side, channels=len(mean), **(usual | fields))


# SGD on all parameters, cosine stepped per epoch, as lightly's CIFAR-10 benchmark has it: 0.06 times N / 128.
LIGHTLY_SGD = {"learning_rate": 0.12, "weight_decay": 5e-4, "per_epoch": True}
SMALL_SGD = {**LIGHTLY_SGD, "scaling": "none"}
LIGHTLY_MODEL = {"stem": "small_linear", "conv_init": "torch"}

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
    "digits_inverted": Card(
        about="From 8x8 digits to the same digits in black on white: two domains without a download.",
        source="digits",
        side=8,
        channels=1,
        benchmark=True,
        has=frozenset({"domains"}),
        weak=replace(recipes.DIGITS, degrees=0.0, shear=0.0),
        sgd={"learning_rate": 0.3, "weight_decay": 1e-4},
        data={"target": "digits:inverted"},
        model={"name": "convnet", "width": 32},
        eval={"knn_k": 20},
        run={"eval_epochs": 10.0, "save_epochs": 25.0},
    ),
    "mnist_m": Card(
        about="From MNIST to MNIST-M, its digits blended with photographs, 28x28: adaptation of Ganin et al. 2016.",
        source="mnist",
        side=28,
        benchmark=True,
        has=frozenset({"domains"}),
        weak=View(size=28, crop="centre", order=("crop",), mean=(0.5,), std=(0.5,)),
        epochs=10,
        batch_size=128,
        data={"target": "mnist_m", "size": 28},
        model={"name": "convnet", "width": 32},
    ),
    "omniglot": Card(
        about="28x28 characters of many alphabets, 20 drawings each; every turn by 90 degrees is a class of its own.",
        source="omniglot",
        side=28,
        channels=1,
        benchmark=True,
        weak=View(size=28, crop="centre", order=("crop",), mean=(0.0,), std=(1.0,)),
        model={"name": "conv4", "width": 64},
    ),
    "photo_pans": Card(
        about="32x32 clips of a window that moves over two photographs: video without a download.",
        source="photo_pans",
        side=32,
        benchmark=True,
        has=frozenset({"clips"}),
        strong=recipes.LIGHTLY_SIMCLR,
        weak=View(size=32, area=(0.5, 1.0), flip=0.5, shared=True, mean=(0.44,), std=(0.3,)),
        epochs=10,
        model={"name": "convnet", "width": 32},
        eval={"knn_k": 20},
    ),
    "davis": Card(
        about="Videos of DAVIS 2016 at 64 pixels.",
        source="davis",
        side=64,
        benchmark=True,
        has=frozenset({"clips"}),
        weak=View(size=64, area=(0.5, 1.0), flip=0.5, shared=True, mean=(0.44,), std=(0.26,)),
        epochs=50,
        data={"size": 64},
        model={"width": 16},
    ),
}
