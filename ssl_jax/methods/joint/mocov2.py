"""MoCo v2: MoCo with an MLP as projector, stronger augmentation and a cosine schedule.

Chen, Fan, Girshick, He 2020 (arXiv 2003.04297): MoCo with SimCLR's hidden layer in the head (without BatchNorm there),
blur, a warmer softmax and a cosine schedule. All else is `mocov1`.
"""

import dataclasses

from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.methods.joint.mocov1 import MoCoV1
from ssl_jax.methods.ranges import Positive


@dataclasses.dataclass(frozen=True)
class MoCoV2(MoCoV1):
    """Momentum contrast with a hidden layer in the head; the fields are MoCo's."""

    view1: View = recipes.MOCO_V2  # sec. 3, "aug+"
    view2: View = recipes.MOCO_V2
    temperature: Positive = 0.2  # tab. 2
    hidden: tuple[int, ...] = (2048,)  # "MLP"
