"""ResNet backbones (He et al. 2016) with torchvision's conventions: stride in the 3x3 convolution ("v1.5")."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.view import View
from ssl_jax.models.backbone import Backbone, Encoded, Pair, one_of, pooled
from ssl_jax.models.conv import Conv
from ssl_jax.models.norm import NORMS, Norm, norm_title
from ssl_jax.models.onnx import Graph
from ssl_jax.runtime.errors import UserError

# Blocks a stage, and whether they are bottlenecks.
DEPTHS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnet200": ((3, 24, 36, 3), True),
}
STEMS = ("imagenet", "small", "small_linear")


class ResNet(Backbone):
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
      output_stride: pixels of the image from one place of the last map to the next; where the network's own would be
        larger, its last stages have dilated kernels instead of a stride (torchvision's `replace_stride_with_dilation`).
        The parameters are the same. 0: the network's own, 32 or, with a small stem, 8.
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
    output_stride: int = 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(DEPTHS)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        one_of("config.model.norm", config.norm, NORMS)
        one_of("config.model.stem", config.stem, STEMS)
        if (stride := config.get("output_stride", 0)) not in (0, 1, 2, 4, 8, 16, 32):
            raise UserError(f"config.model.output_stride is {stride}: use 0, 4, 8, 16 or 32.")
        return super().from_config(config).clone(depth=config.name)

    @property
    def title(self) -> str:
        dilated = f", output stride {self.output_stride}" if self.output_stride else ""
        return f"{self.depth} of width {self.width}, stem '{self.stem}'{norm_title(self.norm)}{dilated}"

    @property
    def stages(self) -> int:
        """Number of residual stages."""
        return 4

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """Encodes images.

        Args:
          x: normalised images [B, H, W, C].
          train: use the statistics of the batch, and update the running ones.
          stage: residual stage (1 to 4) whose output is wanted; default the last.
          frozen: the stem and so many stages keep their running statistics, and get no gradient.
          pool: average over the image; None: return both.

        Returns:
          globally average-pooled features [B, D]; with `pool=False` the feature map [B, h, w, D]; with None both.
        """
        blocks, bottleneck = DEPTHS[self.depth]
        small = self.stem != "imagenet"
        x = x.astype(self.dtype)
        x = Conv(self.width, 3 if small else 7, 1 if small else 2, False, self.conv_init, self.dtype, name="stem")(x)
        # ReLU rises with what goes in: the pooled maximum is the same before it, and a quarter of the work.
        x = self._norm("stem_norm")(x, train and not frozen, None if small else _max_pool)
        x = x if self.stem == "small_linear" else nn.relu(x)
        steps = self._steps()
        for i, count in enumerate(blocks[: stage or self.stages]):
            stride, dilations = steps[i]
            block = nn.remat(ResidualBlock, static_argnums=(2,)) if i < self.remat else ResidualBlock  # 2: train
            for j in range(count):
                x = block(
                    self.width * 2**i,
                    stride=stride if j == 0 else 1,
                    dilations=dilations[min(j, 1)],
                    bottleneck=bottleneck,
                    norm=self.norm,
                    bn_groups=self.bn_groups,
                    zero_init=self.zero_init,
                    conv_init=self.conv_init,
                    dtype=self.dtype,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train and i >= frozen)
            x = jax.lax.stop_gradient(x) if i + 1 == frozen else x
        return pooled(x, pool)

    def _norm(self, name: str) -> Norm:
        return Norm(self.norm, self.bn_groups, dtype=self.dtype, name=name)

    def usual_view(self, params: Any) -> View:
        """All of a 32-pixel image for the small stems."""
        if self.stem == "imagenet":
            return super().usual_view(params)
        return View(size=32, crop="centre", order=("crop",))

    def torch_pairs(self, layout: str) -> list[Pair]:
        if self.norm != "batch":
            return super().torch_pairs(layout)
        pairs = _conv_norm("stem", "conv1", "bn1")
        blocks, bottleneck = DEPTHS[self.depth]
        for i, count in enumerate(blocks):
            for j in range(count):
                ours, theirs = f"stage{i + 1}_block{j + 1}", f"layer{i + 1}.{j}"
                for k in range(1, 4 if bottleneck else 3):
                    pairs += _conv_norm(f"{ours}/conv{k}", f"{theirs}.conv{k}", f"{theirs}.bn{k}")
                if j == 0 and (i > 0 or bottleneck):
                    pairs += _conv_norm(f"{ours}/shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
        return pairs

    @classmethod
    def from_torch(cls, name: str, state: dict[str, np.ndarray], **options: Any) -> Backbone:
        kernel = state.get("conv1.weight")
        if kernel is None or kernel.ndim != 4 or kernel.shape[-1] not in (3, 7):
            shape = "no" if kernel is None else f"a {kernel.shape}"
            raise UserError(
                f"A {name} begins with a 3x3 or 7x7 convolution, but the weights have {shape} conv1.weight."
            )
        small = "small_linear" if options.get("linear_stem") else "small"
        return cls(name, kernel.shape[0], "imagenet" if kernel.shape[-1] == 7 else small)

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        """A width or stem that the library has no model of is put in by hand.

        Raises:
          UserError: for a width that timm cannot build.
        """
        if layout == "timm" and self.width != 64:
            raise UserError(
                f"timm has no ResNet of width {self.width}: use --format=torchvision, whose model card says how to "
                "build one."
            )
        blocks, bottleneck = DEPTHS[self.depth]
        kind = "Bottleneck" if bottleneck else "BasicBlock"
        kernel = "7, 2, 3" if self.stem == "imagenet" else "3, 1, 1"
        stem = f"model.conv1 = nn.Conv2d({channels}, {self.width}, {kernel}, bias=False)"
        if layout == "timm":
            lines = ["import timm", "", f'model = timm.create_model("{self.depth}", num_classes=0)', stem]
        else:
            lines = [
                f"from torchvision.models.resnet import {kind}, ResNet",
                "",
                f"model = ResNet({kind}, {list(blocks)})",
                stem,
                "model.fc = nn.Identity()",
            ]
            if self.width != 64:
                lines += [
                    f"model.bn1, model.inplanes = nn.BatchNorm2d({self.width}), {self.width}",
                    f"for i, blocks in enumerate({list(blocks)}):",
                    f"    layer = model._make_layer({kind}, {self.width} * 2**i, blocks, stride=1 if i == 0 else 2)",
                    '    setattr(model, f"layer{i + 1}", layer)',
                ]
        if self.stem != "imagenet":
            lines.append("model.maxpool = nn.Identity()")
        if self.stem == "small_linear":
            name = "act1" if layout == "timm" else "relu"
            lines.append(f"model.{name} = nn.Identity()  # this stem has no ReLU; those of the blocks stay")
        return "\n".join(lines)

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        graph.average(self.onnx_maps(graph, params, stats, (size, size), [self.stages])[0])
        return self.width * 8 * (4 if DEPTHS[self.depth][1] else 1)

    def onnx_maps(
        self, graph: Graph, params: Any, stats: Any, size: tuple[int, int], stages: Sequence[int]
    ) -> list[str]:
        if self.norm not in ("batch", "none"):
            raise self._without_graph()
        small = self.stem != "imagenet"
        x = graph.conv("images", params, stats, "stem", 1 if small else 2)
        x = x if self.stem == "small_linear" else graph.add("Relu", x)
        if not small:
            x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        (blocks, bottleneck), maps = DEPTHS[self.depth], [x]
        for i, (stride, dilations) in enumerate(self._steps()):
            for j in range(blocks[i]):
                name, own = f"stage{i + 1}_block{j + 1}", (stride if j == 0 else 1, dilations[min(j, 1)])
                x = _onnx_block(graph, x, params[name], stats.get(name, {}), *own, bottleneck)
            maps.append(x)
        return [maps[stage] for stage in stages]

    def _steps(self) -> list[Any]:
        """Of each stage the stride of its first block, and the two dilations of that block and of the others."""
        found = []
        stride, dilation = 4 if self.stem == "imagenet" else 1, 1
        for i in range(self.stages):
            dilates = i > 0 and stride == self.output_stride
            step = 1 if i == 0 or dilates else 2
            before, dilation = dilation, dilation * (2 if dilates else 1)
            stride *= step
            found.append((step, ((before, dilation), (dilation, dilation))))
        return found


def _conv_norm(ours: str, conv: str, norm: str) -> list[Pair]:
    return [
        Pair(f"params/{ours}/kernel", f"{conv}.weight", "conv"),
        Pair(f"params/{ours}_norm/batch/scale", f"{norm}.weight"),
        Pair(f"params/{ours}_norm/batch/bias", f"{norm}.bias"),
        Pair(f"stats/{ours}_norm/batch/mean", f"{norm}.running_mean"),
        Pair(f"stats/{ours}_norm/batch/var", f"{norm}.running_var"),
    ]


def _onnx_block(
    graph: Graph, x: str, params: Any, stats: Any, stride: int, dilations: tuple[int, int], bottleneck: bool
) -> str:
    layers = ((1, 1), (stride, dilations[0]), (1, 1)) if bottleneck else ((stride, dilations[0]), (1, dilations[1]))
    y = x
    for k, (s, dilation) in enumerate(layers):
        y = graph.conv(y, params, stats, f"conv{k + 1}", s, dilation)
        if k + 1 < len(layers):
            y = graph.add("Relu", y)
    if "shortcut" in params:
        x = graph.conv(x, params, stats, "shortcut", stride)
    return graph.add("Relu", graph.add("Add", x, y))


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


class ResidualBlock(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 bottleneck with four times the channels."""

    width: int
    stride: int
    bottleneck: bool
    norm: str
    bn_groups: int
    zero_init: bool
    conv_init: str
    dtype: Any
    dilations: tuple[int, int] = (1, 1)  # of the 3x3 convolution with the stride, and of the one behind it

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(x, name, features, kernel, stride=1, last=False):
            dilation = 1 if kernel == 1 else self.dilations[name == "conv2" and not self.bottleneck]
            conv = Conv(features, kernel, stride, False, self.conv_init, self.dtype, dilation, name=name)
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
