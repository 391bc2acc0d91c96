"""The network as an ONNX graph: images [N, C, H, W], normalised, to features [N, D], in float32.

BatchNorm is folded into the convolution before it. Only standard operators are used (opset 20), and the batch axis is
free; a ResNet takes images of any size, a transformer those of the size that its positions were written for.
"""

import math
from typing import Any

import numpy as np

from ssl_jax.models import DEPTHS, SIZES, ConvNet, ResNet, ViT
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import Backbone, torch_names

_OPSET = 20


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


def model(backbone: Backbone) -> Any:
    """The `onnx.ModelProto` of a backbone, input 'images' and output 'features'.

    Raises:
      UserError: for a network that has no graph here, or where the package onnx is missing.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError as error:
        raise UserError("The format onnx needs the package onnx: pip install ssl_jax[export].") from error
    graph, module, params = Graph(), backbone.module, backbone.params
    size: list[int | str] = ["height", "width"]
    if backbone.halves:
        raise UserError("There is no ONNX graph of a network of two halves: use the format npz or safetensors.")
    if isinstance(module, ViT):
        size = [backbone.view.size] * 2
        width = _vit(graph, params, module, backbone.view.size, backbone.method.uses_map)
    elif isinstance(module, ResNet) and module.norm in ("batch", "none"):
        width = _resnet(graph, params, backbone.stats, module)
    elif isinstance(module, ConvNet) and module.norm in ("batch", "none"):
        width = _convnet(graph, params, backbone.stats, module)
    else:
        raise UserError(
            f"There is no ONNX graph of a {type(module).__name__} with norm '{getattr(module, 'norm', '')}': use the "
            "format npz or safetensors."
        )
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", backbone.channels, *size])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width])
    made = helper.make_graph(graph.nodes, "backbone", [images], [features], graph.constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    # The oldest version of the file format that has these operators, which the most runtimes read.
    version = helper.find_min_ir_version_for(opsets)
    found = helper.make_model(made, opset_imports=opsets, producer_name="ssl_jax", ir_version=version)
    checker.check_model(found, full_check=True)
    return found


def _conv(graph: Graph, x: str, params: Any, stats: Any, name: str, stride: int = 1) -> str:
    """A convolution with the BatchNorm after it, in one."""
    kernel = np.asarray(params[name]["kernel"], np.float64).transpose(3, 2, 0, 1)
    inputs = []
    if f"{name}_norm" in params:
        scale, mean = params[f"{name}_norm"]["batch"], stats[f"{name}_norm"]["batch"]
        factor = np.asarray(scale["scale"], np.float64) / np.sqrt(np.asarray(mean["var"], np.float64) + 1e-5)
        kernel = kernel * factor[:, None, None, None]
        inputs = [graph.constant(np.asarray(scale["bias"]) - np.asarray(mean["mean"]) * factor)]
    side = kernel.shape[-1]
    pads, strides = [(side - 1) // 2] * 4, [stride] * 2
    return graph.add("Conv", x, graph.constant(kernel), *inputs, kernel_shape=[side] * 2, pads=pads, strides=strides)


def _pooled(graph: Graph, x: str) -> None:
    graph.add("Flatten", graph.add("GlobalAveragePool", x), out="features")


def _convnet(graph: Graph, params: Any, stats: Any, module: ConvNet) -> int:
    x = "images"
    for i in range(module.stages):
        x = graph.add("Relu", _conv(graph, x, params, stats, f"stage{i + 1}", 1 if i == 0 else 2))
    _pooled(graph, x)
    return module.width * 2 ** (module.stages - 1)


def _resnet(graph: Graph, params: Any, stats: Any, module: ResNet) -> int:
    small = module.stem != "imagenet"
    x = _conv(graph, "images", params, stats, "stem", 1 if small else 2)
    x = x if module.stem == "small_linear" else graph.add("Relu", x)
    if not small:
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    blocks, bottleneck = DEPTHS[module.depth]
    for i, count in enumerate(blocks):
        for j in range(count):
            name = f"stage{i + 1}_block{j + 1}"
            x = _block(graph, x, params[name], stats.get(name, {}), 2 if i > 0 and j == 0 else 1, bottleneck)
    _pooled(graph, x)
    return module.width * 8 * (4 if bottleneck else 1)


def _block(graph: Graph, x: str, params: Any, stats: Any, stride: int, bottleneck: bool) -> str:
    strides = (1, stride, 1) if bottleneck else (stride, 1)
    y = x
    for k, s in enumerate(strides):
        y = _conv(graph, y, params, stats, f"conv{k + 1}", s)
        if k + 1 < len(strides):
            y = graph.add("Relu", y)
    if "shortcut" in params:
        x = _conv(graph, x, params, stats, "shortcut", stride)
    return graph.add("Relu", graph.add("Add", x, y))


def _vit(graph: Graph, params: Any, module: ViT, size: int, mean: bool) -> int:
    """The class token at the end, or the mean of the patches."""
    width, depth, heads = SIZES[module.size]
    heads, side = module.heads or heads, module.patch
    kernel = np.asarray(params["patch"]["kernel"]).reshape(side, side, -1, width).transpose(3, 2, 0, 1)
    bias = graph.constant(params["patch"]["bias"])
    x = graph.add("Conv", "images", graph.constant(kernel), bias, kernel_shape=[side] * 2, strides=[side] * 2)
    x = graph.add("Reshape", x, graph.constant(np.array([0, width, -1])))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    # The class token goes where a row of zeros is put in front: it is added with the positions.
    x = graph.add("Pad", x, graph.constant(np.array([0, 1, 0, 0, 0, 0])))
    table = np.array(torch_names.positions(params, module, size))
    table[:, 0] += np.asarray(params["token"])[0, 0]
    x = graph.add("Add", x, graph.constant(table))
    for i in range(depth):
        x = _transformer_block(graph, x, params[f"block{i + 1}"], heads, width)
    if mean:
        start, end, axis = (graph.constant(np.array([n])) for n in (1, np.iinfo(np.int64).max, 1))
        patches = graph.norm(graph.add("Slice", x, start, end, axis), params["norm"])
        graph.add("ReduceMean", patches, axis, keepdims=0, out="features")
    else:
        x = graph.add("Gather", x, graph.constant(np.array(0)), axis=1)
        graph.add("Identity", graph.norm(x, params["norm"]), out="features")
    return width


def _transformer_block(graph: Graph, x: str, params: Any, heads: int, width: int) -> str:
    y = graph.linear(graph.norm(x, params["norm1"]), params["qkv"])
    y = graph.add("Reshape", y, graph.constant(np.array([0, 0, 3, heads, width // heads])))
    y = graph.add("Transpose", y, perm=[2, 0, 3, 1, 4])  # [3, N, heads, n, D / heads]
    q, k, v = (graph.add("Gather", y, graph.constant(np.array(i)), axis=0) for i in range(3))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Mul", scores, graph.constant(np.array(1 / math.sqrt(width // heads))))
    y = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    y = graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), graph.constant(np.array([0, 0, width])))
    x = graph.add("Add", x, graph.linear(y, params["proj"]))
    y = graph.add("Gelu", graph.linear(graph.norm(x, params["norm2"]), params["mlp1"]))
    return graph.add("Add", x, graph.linear(y, params["mlp2"]))
