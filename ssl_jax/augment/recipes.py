"""The augmentation recipes of the papers, as data.

Names follow the authors; ImageNet recipes have 224-pixel views, those ending in `_cifar` 32. A recipe of two views is
a pair. Sources: the authors' code, as named beside each recipe. Recipes whose authors augment with Pillow round as it
does.
"""

import dataclasses
from typing import Any

from ssl_jax.augment.view import View

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_UNIT: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}  # SimCLR's TensorFlow code feeds [0, 1] as it is


def _colour(b: float, c: float, s: float, h: float, jitter: float = 0.8, gray: float = 0.2) -> dict[str, Any]:
    return {"brightness": b, "contrast": c, "saturation": s, "hue": h, "jitter": jitter, "gray": gray}


replace = dataclasses.replace

# google-research/simclr data_util.py: resizing, contrast and saturation are TensorFlow's; brightness is additive as the
# paper's v1 had it, and multiplicative as the code's later default has it, which its CIFAR command uses.
SIMCLR = View(
    crop="tf",
    interpolation="bicubic",
    antialias=False,
    flip=0.5,
    **_colour(0.8, 0.8, 0.8, 0.2),
    additive_brightness=True,
    channel_contrast=True,
    hsv_saturation=True,
    blur=0.5,
    blur_padding="zero",
    **_UNIT,
)
SIMCLR_CIFAR = replace(SIMCLR, size=32, **_colour(0.4, 0.4, 0.4, 0.1), blur=0.0, additive_brightness=False)

# facebookresearch/moco: v1 turns gray before it jitters, always jitters; v2 adds blur. SimSiam uses v2's. NPID
# (zhirongw/lemniscate.pytorch main.py) has v1's; its cifar.py jitters before it turns gray, and does not flip.
MOCO_V1 = View(
    area=(0.2, 1.0),
    flip=0.5,
    **_colour(0.4, 0.4, 0.4, 0.4, jitter=1.0),
    pillow=True,
    order=("crop", "gray", "jitter", "flip"),
)
MOCO_V2 = View(
    area=(0.2, 1.0),
    flip=0.5,
    **_colour(0.4, 0.4, 0.4, 0.1),
    blur=0.5,
    pillow=True,
    order=("crop", "jitter", "gray", "blur", "flip"),
)
SIMSIAM = MOCO_V2
NPID = replace(MOCO_V1)
NPID_CIFAR = replace(
    NPID, size=32, flip=0.0, order=("crop", "jitter", "gray"), mean=CIFAR10_MEAN, std=(0.2023, 0.1994, 0.2010)
)
MOCO_CIFAR = View(
    size=32,
    flip=0.5,
    **_colour(0.4, 0.4, 0.4, 0.1),
    pillow=True,
    mean=CIFAR10_MEAN,
    std=(0.2023, 0.1994, 0.2010),
    order=("crop", "flip", "jitter", "gray"),
)
SIMSIAM_CIFAR = replace(SIMSIAM, size=32, blur=0.0, mean=CIFAR10_MEAN, std=CIFAR10_STD)

# deepmind-research/byol utils/augmentations.py.
_byol = View(
    crop="byol",
    interpolation="bicubic",
    antialias=False,
    flip=0.5,
    **_colour(0.4, 0.4, 0.2, 0.1),
    additive_brightness=True,
    channel_contrast=True,
    hsv_saturation=True,
    blur_padding="zero",
)
BYOL = (replace(_byol, blur=1.0), replace(_byol, blur=0.1, solarize=0.2))

# facebookresearch/barlowtwins and vicreg; moco-v3 has the same ops, its flip last.
_barlow = View(interpolation="bicubic", flip=0.5, **_colour(0.4, 0.4, 0.2, 0.1), pillow=True)
BARLOW_TWINS = (replace(_barlow, blur=1.0), replace(_barlow, blur=0.1, solarize=0.2))
VICREG = BARLOW_TWINS
_moco_v3 = replace(_barlow, interpolation="bilinear", order=("crop", "jitter", "gray", "blur", "solarize", "flip"))
MOCO_V3_VIT = (replace(_moco_v3, blur=1.0), replace(_moco_v3, blur=0.1, solarize=0.2))
MOCO_V3_RESNET = tuple(replace(v, area=(0.2, 1.0)) for v in MOCO_V3_VIT)

# facebookresearch/swav: two large and six small crops; the 0.228 is in the released code and models.
_swav = View(flip=0.5, **_colour(0.8, 0.8, 0.8, 0.2), blur=0.5, pillow=True, std=(0.228, 0.224, 0.225))
SWAV_LARGE = replace(_swav, area=(0.14, 1.0))
SWAV_SMALL = replace(_swav, size=96, area=(0.05, 0.14))

# facebookresearch/dino (ViT; its ResNet-50 has areas .14-1 and .05-.14).
_dino = View(interpolation="bicubic", flip=0.5, **_colour(0.4, 0.4, 0.2, 0.1), pillow=True)
DINO_GLOBAL = (
    replace(_dino, area=(0.4, 1.0), blur=1.0),
    replace(_dino, area=(0.4, 1.0), blur=0.1, solarize=0.2),
)
DINO_LOCAL = replace(_dino, size=96, area=(0.05, 0.4), blur=0.5)

# rbalestr-lab/lejepa: all views alike but for their size; the minimal example has four of 128 pixels.
LEJEPA = View(area=(0.3, 1.0), flip=0.5, **_colour(0.4, 0.4, 0.2, 0.1), blur=0.5, solarize=0.2, pillow=True)
LEJEPA_LOCAL = replace(LEJEPA, size=98, area=(0.05, 0.3))
LEJEPA_MINIMAL = replace(LEJEPA, size=128, area=(0.08, 1.0), **_colour(0.8, 0.8, 0.8, 0.2), taps=7)

# facebookresearch/msn, src/data_manager.py.
MSN = View(area=(0.3, 1.0), flip=0.5, **_colour(0.4, 0.4, 0.4, 0.1), blur=0.5, pillow=True)
MSN_FOCAL = replace(MSN, size=96, area=(0.05, 0.3))

# VISReg's README.
VISREG = View(
    area=(0.3, 1.0),
    interpolation="bicubic",
    flip=0.5,
    **_colour(0.4, 0.4, 0.2, 0.05),
    blur=0.5,
    taps=9,
    solarize=0.2,
    pillow=True,
)
VISREG_LOCAL = replace(VISREG, size=96, area=(0.05, 0.3))
VISREG_IMAGENETTE = replace(VISREG, size=128, area=(0.08, 1.0), **_colour(0.8, 0.8, 0.8, 0.1))

# facebookresearch/dinov2. Its code hands the blur's probability over as that of leaving it out: the released models saw
# no blur in the first crop and nine tenths in the second. The config, and the paper, say the opposite.
_dinov2 = replace(_dino, taps=9)
DINOV2_GLOBAL = (
    replace(_dinov2, area=(0.32, 1.0)),
    replace(_dinov2, area=(0.32, 1.0), blur=0.9, solarize=0.2),
)
DINOV2_PRINTED = (replace(DINOV2_GLOBAL[0], blur=1.0), replace(DINOV2_GLOBAL[1], blur=0.1))
DINOV2_LOCAL = replace(_dinov2, size=96, area=(0.05, 0.32), blur=0.5)

# bytedance/ibot, and RobinWu218/SimDINO.
IBOT_GLOBAL = tuple(replace(view, area=(0.25, 1.0)) for view in DINO_GLOBAL)
IBOT_LOCAL = replace(DINO_LOCAL, area=(0.05, 0.25))
SIMDINOV2_GLOBAL = tuple(replace(view, area=(0.4, 1.0)) for view in DINOV2_GLOBAL)

MAE = View(area=(0.2, 1.0), interpolation="bicubic", flip=0.5, pillow=True)
IJEPA = View(area=(0.3, 1.0), flip=0.0, pillow=True)  # facebookresearch/ijepa, src/transforms.py: the crop alone
CAPI = View(area=(0.6, 1.0), interpolation="bicubic", flip=0.5, pillow=True)  # facebookresearch/capi, train_capi.py

# VISSL's PIRL image branch; its jitter is always applied.
PIRL = View(
    flip=0.5,
    **_colour(0.4, 0.4, 0.4, 0.2, jitter=1.0),
    photometric=0.66,
    pillow=True,
    order=("crop", "jitter", "photometric", "gray", "flip"),
)

# W-MSE's repository jitters before it crops; here images of several sizes are cropped first.
WMSE_CIFAR = View(
    size=32,
    area=(0.2, 1.0),
    interpolation="bicubic",
    flip=0.5,
    **_colour(0.4, 0.4, 0.4, 0.1, gray=0.1),
    pillow=True,
    order=("jitter", "gray", "crop", "flip"),
    mean=CIFAR10_MEAN,
    std=(0.2023, 0.1994, 0.2010),
)

WMSE_IMAGENET = View(
    interpolation="bicubic",
    flip=0.5,
    **_colour(0.8, 0.8, 0.8, 0.2),
    blur=0.5,
    pillow=True,
    order=("crop", "jitter", "gray", "flip", "blur"),
)

# solo-learn's CIFAR recipes: bicubic, multiplicative brightness, flip last; Pillow's blur reaches as far as sigma asks.
_solo = View(
    size=32,
    interpolation="bicubic",
    flip=0.5,
    taps=13,
    pillow=True,
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
    order=("crop", "jitter", "gray", "blur", "solarize", "flip"),
)
SOLO_SYMMETRIC = replace(_solo, **_colour(0.8, 0.8, 0.8, 0.2), blur=0.5)
SOLO_WEAK = replace(_solo, **_colour(0.4, 0.4, 0.4, 0.1), blur=0.5)
_solo_asymmetric = replace(_solo, **_colour(0.4, 0.4, 0.2, 0.1))
SOLO_ASYMMETRIC = (_solo_asymmetric, replace(_solo_asymmetric, solarize=0.2))
SOLO_VICREG = replace(_solo_asymmetric, area=(0.2, 1.0), solarize=0.1)

# lightly's CIFAR benchmark: no blur, jitter at half strength, ImageNet normalisation.
LIGHTLY_SIMCLR = View(size=32, flip=0.5, **_colour(0.4, 0.4, 0.4, 0.1), pillow=True)
_lightly_byol = View(size=32, flip=0.5, **_colour(0.4, 0.4, 0.2, 0.1), pillow=True)
LIGHTLY_BYOL = (_lightly_byol, replace(_lightly_byol, solarize=0.2))

# gidariss/FeatureLearningRotNet: CIFAR pads and shifts, ImageNet takes resized crops.
ROTNET = View(flip=0.5, pillow=True)
ROTNET_CIFAR = View(size=32, crop="shift", pad=4, flip=0.5, mean=CIFAR10_MEAN, std=CIFAR10_STD)

# Digits have a right way round, so they want small affine maps and no flips.
DIGITS = View(
    size=8,
    crop="centre",
    affine=1.0,
    degrees=20.0,
    translate=0.15,
    scale=(0.8, 1.25),
    shear=15.0,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    order=("affine", "crop", "jitter"),
    mean=(0.3,),
    std=(0.37,),
)
# Clothes as Fashion-MNIST has them: crops and flips in gray.
FASHION = View(
    size=28,
    area=(0.3, 1.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    mean=(0.2860,),
    std=(0.3530,),
)
