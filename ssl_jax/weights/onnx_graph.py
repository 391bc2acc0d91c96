"""The network as an ONNX graph: images [N, C, H, W], normalised, to features [N, D], in float32.

BatchNorm is folded into the convolution before it. Only standard operators are used (opset 20), and the batch axis is
free; a ResNet takes images of any size, a transformer those of the size that its positions were written for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.models.onnx import OPSET, Graph
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import Backbone


def model(backbone: Backbone) -> Any:
    """The `onnx.ModelProto` of a backbone, input 'images' and output 'features'.

    Raises:
      UserError: for a network that has no graph here, or where the package onnx is missing.
    """
    _installed()
    graph, module, params = Graph(), backbone.module, backbone.params
    size: list[int | str] = ["height", "width"]
    if backbone.halves:
        raise UserError("There is no ONNX graph of a network of two halves: use the format npz or safetensors.")
    if module.fixed_size:
        size = [backbone.view.size] * 2
    width = module.onnx(graph, params, backbone.stats, backbone.view.size, backbone.method.pools_map)
    return finished(graph, (backbone.channels, *size), {"features": [width]})


def _installed() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError("The format onnx needs the package onnx: pip install ssl_jax[export].") from error


def finished(graph: Graph, images: Sequence[int | str], outputs: Mapping[str, Sequence[int | str]]) -> Any:
    """The `onnx.ModelProto` of a graph with the input 'images'.

    Args:
      graph: all of its nodes.
      images: shape of one image.
      outputs: name to shape of what is put out for one image.
    """
    from onnx import TensorProto, checker, helper

    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *images])
    exits = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in outputs.items()
    ]
    made = helper.make_graph(graph.nodes, "network", [entry], exits, graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    # The oldest version of the file format that has these operators, which the most runtimes read.
    version = helper.find_min_ir_version_for(opsets)
    found = helper.make_model(made, opset_imports=opsets, producer_name="ssl_jax", ir_version=version)
    checker.check_model(found, full_check=True)
    return found


def features(content: bytes, images: np.ndarray) -> np.ndarray:
    """The features float32 [N, D] of a file, as `outputs` has them."""
    return outputs(content, images)["features"]


def outputs(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a file makes of normalised images [N, H, W, C], as other programs run it.

    Args:
      content: of the file.
      images: float32.

    Returns:
      name to float32 [N, ...], by onnxruntime where that is installed, else by onnx's own slow evaluator.
    """
    inputs = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)}
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load_from_string(content))
        found: Any = evaluator.run(None, inputs)
        return dict(zip(evaluator.output_names, map(np.asarray, found), strict=True))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(names, inputs)), strict=True))
