"""Writes the nodes of an ONNX graph. Only standard operators are used (opset 20)."""

from typing import Any

import numpy as np

OPSET = 20


class Graph:
    """Nodes and constants in the order in which they are added; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, x: np.ndarray) -> str:
        """Adds an array: floating point becomes float32, whole numbers int64."""
        from onnx import numpy_helper

        x = np.asarray(x)
        name = f"c{len(self.constants)}"
        dtype = np.float32 if np.issubdtype(x.dtype, np.floating) else np.int64
        self.constants.append(numpy_helper.from_array(np.asarray(x, dtype, order="C"), name))
        return name

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Adds a node with one output."""
        from onnx import helper

        name = out or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def linear(self, x: str, layer: Any) -> str:
        """The product with a kernel over the last axis, plus its bias."""
        x = self.add("MatMul", x, self.constant(layer["kernel"]))
        return self.add("Add", x, self.constant(layer["bias"]))

    def norm(self, x: str, layer: Any) -> str:
        """LayerNorm over the last axis."""
        scale, bias = self.constant(layer["scale"]), self.constant(layer["bias"])
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6)

    def conv(self, x: str, params: Any, stats: Any, name: str, stride: int = 1, dilation: int = 1) -> str:
        """A convolution with its bias or with the BatchNorm after it, in one."""
        kernel = np.asarray(params[name]["kernel"], np.float64).transpose(3, 2, 0, 1)
        inputs = [self.constant(params[name]["bias"])] if "bias" in params[name] else []
        if f"{name}_norm" in params:
            scale, mean = params[f"{name}_norm"]["batch"], stats[f"{name}_norm"]["batch"]
            factor = np.asarray(scale["scale"], np.float64) / np.sqrt(np.asarray(mean["var"], np.float64) + 1e-5)
            kernel = kernel * factor[:, None, None, None]
            inputs = [self.constant(np.asarray(scale["bias"]) - np.asarray(mean["mean"]) * factor)]
        side = kernel.shape[-1]
        steps: dict[str, Any] = {"strides": [stride] * 2, "dilations": [dilation] * 2}
        pads = [dilation * (side - 1) // 2] * 4
        return self.add("Conv", x, self.constant(kernel), *inputs, kernel_shape=[side] * 2, pads=pads, **steps)

    def batch_norm(self, x: str, params: Any, stats: Any) -> str:
        """A BatchNorm of a map by its running statistics; without scale and offset where `params` has none."""
        ones = np.ones(len(stats["mean"]))
        layer = (params.get("scale", ones), params.get("bias", 0 * ones), stats["mean"], stats["var"])
        return self.add("BatchNormalization", x, *map(self.constant, layer), epsilon=1e-5)

    def linear_map(self, x: str, layer: Any) -> str:
        """A linear layer at every place of a map [N, D, h, w]."""
        kernel = self.constant(np.asarray(layer["kernel"]).T[:, :, None, None])
        return self.add("Conv", x, kernel, self.constant(layer["bias"]), kernel_shape=[1, 1])

    def resized(self, x: str, like: str) -> str:
        """A map [N, D, h, w] brought to the rows and columns of another: bilinear, half pixels, not antialiased."""
        sizes = self.add("Concat", self.add("Shape", x, end=2), self.add("Shape", like, start=2), axis=0)
        modes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.add("Resize", x, "", "", sizes, **modes)

    def average(self, x: str) -> None:
        """Features: the mean over the map."""
        self.add("Flatten", self.add("GlobalAveragePool", x), out="features")
