"""What the numbers of a dense head mean: in JAX for its evaluation, and in an ONNX graph for other programs.

The fields of an answer are what the training images decided. It is stored with the head.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.metrics import depth
from ssl_jax.metrics.segmentation import upsampled
from ssl_jax.models.onnx import Graph


class Answer:
    """What a head says: outputs by name, in the layout of a graph."""

    outputs: ClassVar[tuple[str, ...]]

    @property
    def words(self) -> str:
        """What the outputs are, for the model card."""
        raise NotImplementedError

    def shapes(self, size: Sequence[int | str]) -> list[list[int | str]]:
        """Shapes of the outputs for one image of so many rows and columns, which may be names."""
        return [list(size)]

    def named(self, x: Any, size: tuple[int, int]) -> dict[str, jax.Array]:
        """The outputs of a head's numbers [B, h, w, C], for images of so many rows and columns."""
        raise NotImplementedError

    def onnx(self, graph: Graph, x: tuple[str, ...]) -> tuple[str, ...]:
        """The same in a graph, of values [N, C, h, w] and the value 'images'."""
        raise NotImplementedError


class Pixels(Answer):
    """What is said of every pixel, of numbers that are brought to the size of the images."""

    @property
    def channels(self) -> int:
        """Of the head."""
        raise NotImplementedError

    def __call__(self, x: jax.Array) -> jax.Array:
        """What numbers [B, H, W, channels] say, [B, H, W] or [B, H, W, K]."""
        raise NotImplementedError

    def of_pixels(self, graph: Graph, x: str) -> str:
        """The same in a graph, of a value [N, channels, H, W]; a last axis of the answer comes second there."""
        raise NotImplementedError

    def named(self, x: Any, size: tuple[int, int]) -> dict[str, jax.Array]:
        found = self(upsampled(x, size))
        return {self.outputs[0]: jnp.moveaxis(found, -1, 1) if found.ndim == 4 else found}

    def onnx(self, graph: Graph, x: tuple[str, ...]) -> tuple[str, ...]:
        return (self.of_pixels(graph, graph.resized(x[0], "images")),)


@dataclasses.dataclass(frozen=True)
class Classes(Pixels):
    """Logits of the classes of a mask."""

    names: tuple[str, ...]

    outputs = ("logits",)

    @property
    def channels(self) -> int:
        return len(self.names)

    @property
    def words(self) -> str:
        return f"Output: `logits` [N, classes, H, W]; a pixel is of the class of the largest. {_listed(self.names)}"

    def shapes(self, size: Sequence[int | str]) -> list[list[int | str]]:
        return [[self.channels, *size]]

    def __call__(self, x: jax.Array) -> jax.Array:
        return x

    def of_pixels(self, graph: Graph, x: str) -> str:
        return x


def _listed(names: tuple[str, ...]) -> str:
    return f"Classes: {', '.join(f'{i} {name}' for i, name in enumerate(names))}"


class Depth(Pixels):
    """Depth of every pixel."""

    outputs = ("depth",)
    words = "Output: `depth` [N, H, W], in the unit of the training data"


@dataclasses.dataclass(frozen=True)
class LogDepth(Depth):
    """Depth by its logarithm; a head that says nothing says the middle."""

    middle: float

    channels = 1

    def logarithm(self, x: jax.Array) -> jax.Array:
        """Of the depth, [B, H, W]."""
        return x[..., 0] + self.middle

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.exp(self.logarithm(x))

    def of_pixels(self, graph: Graph, x: str) -> str:
        return graph.add("Exp", graph.add("Add", _only_channel(graph, x), graph.constant(np.array(self.middle))))


@dataclasses.dataclass(frozen=True)
class BinnedDepth(Depth):
    """Depth as the mean over bins, as `metrics.depth.from_bins` has it."""

    nearest: float
    furthest: float

    channels = depth.BINS

    def __call__(self, x: jax.Array) -> jax.Array:
        return depth.from_bins(x, self.nearest, self.furthest)

    def of_pixels(self, graph: Graph, x: str) -> str:
        weights = graph.add("Add", graph.add("Relu", x), graph.constant(np.array(depth.FLOOR)))
        centres = graph.constant(np.linspace(self.nearest, self.furthest, depth.BINS)[:, None, None])
        axis = graph.constant(np.array([1]))
        sums = [graph.add("ReduceSum", y, axis, keepdims=0) for y in (graph.add("Mul", weights, centres), weights)]
        return graph.add("Div", *sums)


@dataclasses.dataclass(frozen=True)
class Normals(Pixels):
    """Directions of surfaces."""

    outputs, channels = ("normals",), 3
    words = "Output: `normals` [N, 3, H, W], unit vectors in the directions of the training data"

    def shapes(self, size: Sequence[int | str]) -> list[list[int | str]]:
        return [[3, *size]]

    def __call__(self, x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    def of_pixels(self, graph: Graph, x: str) -> str:
        length = graph.add("ReduceL2", x, graph.constant(np.array([1])), keepdims=1)
        return graph.add("Div", x, graph.add("Max", length, graph.constant(np.array(1e-12))))


@dataclasses.dataclass(frozen=True)
class Boundary(Pixels):
    """How sure a head is of a boundary."""

    outputs, channels = ("boundary",), 1
    words = (
        "Output: `boundary` [N, H, W], from 0 to 1, higher where a boundary is likelier. Boundaries and all the rest "
        "weighed the same in training, so that it is no probability"
    )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x[..., 0])

    def of_pixels(self, graph: Graph, x: str) -> str:
        return graph.add("Sigmoid", _only_channel(graph, x))


def _only_channel(graph: Graph, x: str) -> str:
    return graph.add("Squeeze", x, graph.constant(np.array([1])))


@dataclasses.dataclass(frozen=True)
class Boxes(Answer):
    """CenterNet's three maps, of one place for every `stride` pixels."""

    names: tuple[str, ...]
    stride: float

    outputs = ("heat", "size", "offset")

    @property
    def words(self) -> str:
        return (
            "Outputs: `heat` [N, classes, h, w] from 0 to 1, `size` [N, 2, h, w] height and width in pixels, `offset` "
            f"[N, 2, h, w] down and right, in places of the map, each of which is {self.stride:g} pixels. An object is "
            "where the heat is the highest of the 3x3 places around it. Its centre in pixels is (place + offset) "
            f"{self.stride:g}. {_listed(self.names)}"
        )

    def shapes(self, size: Sequence[int | str]) -> list[list[int | str]]:
        return [[channels, "rows", "columns"] for channels in (len(self.names), 2, 2)]

    def named(self, x: Any, size: tuple[int, int]) -> dict[str, jax.Array]:
        heat, sizes, offset = (jnp.moveaxis(part, -1, 1) for part in x)
        return {"heat": jax.nn.sigmoid(heat), "size": sizes * self.stride, "offset": offset}

    def onnx(self, graph: Graph, x: tuple[str, ...]) -> tuple[str, ...]:
        heat, sizes, offset = x
        return graph.add("Sigmoid", heat), graph.add("Mul", sizes, graph.constant(np.array(self.stride))), offset


KINDS = {kind.__name__: kind for kind in (Classes, LogDepth, BinnedDepth, Normals, Boundary, Boxes)}
