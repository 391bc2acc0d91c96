"""ResNet backbones (He et al. 2016) with torchvision's conventions: stride in the 3x3 convolution ("v1.5")."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.conv import Conv
from ssl_jax.models.norm import Norm

# Blocks a stage, and whether they are bottlenecks.
DEPTHS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnet200": ((3, 24, 36, 3), True),
}


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Attributes:
      depth: a key of `DEPTHS`.
      width: channels of the first stage; 64 is the standard, 128 the "2x" of SimCLR and BYOL.
      stem: 'imagenet' (7x7 stride 2 and 3x3 max-pool stride 2), 'small' (3x3 stride 1, for 32-pixel images) or
        'small_linear' (the same without its ReLU: lightly's CIFAR-10 benchmark strings the modules of its ResNet
        together, and so loses this ReLU, which is a function there).
      norm: 'batch', 'group', 'layer' or 'none'.
      bn_groups: BatchNorm groups of the global batch.
      zero_init: start the last scale of each residual block at zero (Goyal et al. 2017).
      conv_init: how convolutions start, a key of `conv.INITS`.
      dtype: type that is computed in.
      remat: the first so many stages compute their blocks anew in the backward pass instead of keeping what is inside.
    """

    depth: str = "resnet50"
    width: int = 64
    stem: str = "imagenet"
    norm: str = "batch"
    bn_groups: int = 1
    zero_init: bool = False
    conv_init: str = "kaiming"
    dtype: Any = jnp.float32
    remat: int = 0

    @property
    def stages(self) -> int:
        """Number of residual stages."""
        return 4

    def stage_of(self, name: str) -> int:
        """The stage that a part of the parameters belongs to, by its name; 0: the stem."""
        return 0 if name.startswith("stem") else int(name.removeprefix("stage").split("_")[0])

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool = True
    ) -> jax.Array:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: use the statistics of the batch, and update the running ones.
          stage: residual stage (1 to 4) whose output is wanted; default the last.
          frozen: the stem and so many stages keep their running statistics, and get no gradient.
          pool: average over the image.

        Returns:
          globally average-pooled features [B, D]; without `pool` the feature map [B, h, w, D].
        """
        blocks, bottleneck = DEPTHS[self.depth]
        small = self.stem != "imagenet"
        x = x.astype(self.dtype)
        x = Conv(self.width, 3 if small else 7, 1 if small else 2, False, self.conv_init, self.dtype, name="stem")(x)
        # ReLU rises with what goes in: the pooled maximum is the same before it, and a quarter of the work.
        x = self._norm("stem_norm")(x, train and not frozen, None if small else _max_pool)
        x = x if self.stem == "small_linear" else nn.relu(x)
        for i, count in enumerate(blocks[: stage or self.stages]):
            block = nn.remat(Block, static_argnums=(2,)) if i < self.remat else Block  # 2: train
            for j in range(count):
                x = block(
                    self.width * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    bottleneck=bottleneck,
                    norm=self.norm,
                    bn_groups=self.bn_groups,
                    zero_init=self.zero_init,
                    conv_init=self.conv_init,
                    dtype=self.dtype,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train and i >= frozen)
            x = jax.lax.stop_gradient(x) if i + 1 == frozen else x
        return x.mean((1, 2)) if pool else x

    def _norm(self, name: str) -> Norm:
        return Norm(self.norm, self.bn_groups, dtype=self.dtype, name=name)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 bottleneck with four times the channels."""

    width: int
    stride: int
    bottleneck: bool
    norm: str
    bn_groups: int
    zero_init: bool
    conv_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(x, name, features, kernel, stride=1, last=False):
            conv = Conv(features, kernel, stride, False, self.conv_init, self.dtype, name=name)
            norm = Norm(self.norm, self.bn_groups, last and self.zero_init, self.dtype, name=f"{name}_norm")
            if kernel == stride == 1 and features > x.shape[-1]:
                return norm(x, train, kernel=conv.weights(x.shape[-1])[0])
            return norm(conv(x), train)

        out = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            y = nn.relu(layer(x, "conv1", self.width, 1))
            y = nn.relu(layer(y, "conv2", self.width, 3, self.stride))
            y = layer(y, "conv3", out, 1, last=True)
        else:
            y = nn.relu(layer(x, "conv1", self.width, 3, self.stride))
            y = layer(y, "conv2", out, 3, last=True)
        if x.shape != y.shape:
            x = layer(x, "shortcut", out, 1, self.stride)
        return nn.relu(x + y)
