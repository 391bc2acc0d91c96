"""A head of dense prediction that an evaluation trained on a backbone: in a workdir, and as one ONNX graph with it.

The workdir keeps them in `heads/`. A head on a frozen backbone is stored alone, with what tells that backbone from
others; one that the backbone was trained with is stored with its own backbone.
"""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from etils import epath
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.methods.contract import Method, Variables
from ssl_jax.metrics.segmentation import upsampled
from ssl_jax.models import dense_heads
from ssl_jax.models.onnx import Graph
from ssl_jax.runtime import processes
from ssl_jax.runtime.errors import UserError
from ssl_jax.weights import Backbone, answers, arrays_file, onnx_graph
from ssl_jax.workdir import results as stored_results
from ssl_jax.workdir.fingerprint import fingerprint

FOLDER = "heads"  # of the workdir
_KINDS = {kind.__name__: kind for kind in (dense_heads.LinearHead, dense_heads.FCNHead, dense_heads.CenterNetHead)}


@dataclasses.dataclass(frozen=True, eq=False)
class DenseHead:
    """A trained head, and the backbone that it was trained with."""

    name: str  # evaluation and kind of head, as 'depth/linear'
    head: nn.Module
    variables: Variables  # of the head
    answer: answers.Answer
    network: str  # fingerprint of the variables of the backbone before
    backbone: Variables | None  # that it was trained with; None: it was frozen
    size: tuple[int, int]  # height and width of the images that it was tested on, pixels
    data: str  # name of the data set
    stages: tuple[int, ...] = ()  # whose maps it sees, brought to the size of the largest; (): the last alone
    output_stride: int = 0  # of the backbone, where it was not the backbone's own

    def on(self, backbone: Backbone) -> Backbone:
        """The backbone as the head has it, computed in float32.

        Raises:
          UserError: if the head is of other weights, or the network does not see images as they are.
        """
        if fingerprint(backbone.variables) != self.network:
            raise UserError(
                f"The head {self.name} was trained on other weights than these, maybe before the run went on: evaluate "
                "again, and export then."
            )
        if type(backbone.method).encode is not Method.encode:
            raise UserError(
                f"{type(backbone.method).__name__} changes images before the network sees them, which no graph of it "
                "does: dense heads of such a method are not exported."
            )
        own: dict[str, Any] = {"output_stride": self.output_stride} if self.output_stride else {}
        method = dataclasses.replace(backbone.method, backbone=backbone.module.clone(dtype=jnp.float32, **own))
        variables = self.backbone or backbone.variables
        return dataclasses.replace(
            backbone, method=method, params=variables["params"], stats=variables.get("batch_stats", {})
        )

    def outputs(self, backbone: Backbone, images: np.ndarray) -> dict[str, np.ndarray]:
        """What JAX makes of normalised images [N, H, W, C], by the names and in the layout of the graph's outputs."""
        backbone = self.on(backbone)

        def compute(variables: tuple[Variables, Variables], x: jax.Array) -> dict[str, jax.Array]:
            maps = [
                backbone.method.encode(variables[0], x, stage=stage)[0].map
                for stage in self.stages or (backbone.module.stages,)
            ]
            answer = self.head.apply(variables[1], side_by_side(maps), train=False)
            return self.answer.named(answer, (x.shape[1], x.shape[2]))

        return jax.device_get(jax.jit(compute)((backbone.variables, self.variables), jnp.asarray(images)))

    def model(self, backbone: Backbone) -> Any:
        """The `onnx.ModelProto` of backbone and head, input 'images'.

        Raises:
          UserError: for a backbone that has no graph, or is not the head's.
        """
        backbone = self.on(backbone)
        graph, module = Graph(), backbone.module
        stages = self.stages or (module.stages,)
        maps = module.onnx_maps(graph, backbone.params, backbone.stats, self.size, stages)
        x = maps[0] if len(maps) == 1 else graph.add("Concat", *(graph.resized(m, maps[0]) for m in maps), axis=1)
        parts = (self.variables["params"], self.variables.get("batch_stats", {}))
        answer = self.answer.onnx(graph, self.head.onnx(graph, x, *parts))  # type: ignore[attr-defined]
        for name, value in zip(self.answer.outputs, answer, strict=True):
            graph.add("Identity", value, out=name)
        size: tuple[int | str, int | str] = self.size if module.fixed_size else ("height", "width")
        outputs = dict(zip(self.answer.outputs, self.answer.shapes(size), strict=True))
        return onnx_graph.finished(graph, (backbone.channels, *size), outputs)


def side_by_side(maps: Sequence[Any]) -> jax.Array:
    """Maps [B, h, w, D] brought to the size of the largest, in float32, channels behind channels; one as it is."""
    if len(maps) == 1:
        return maps[0]
    height, width = (max(m.shape[axis] for m in maps) for axis in (1, 2))
    return jnp.concatenate([upsampled(m.astype(jnp.float32), (height, width)) for m in maps], -1)


def store(workdir: str, key: str, heads: Sequence[DenseHead]) -> dict[str, str]:
    """Writes heads into a workdir, replacing those of the same names.

    Args:
      workdir: of the run.
      key: of the weights and images.
      heads: maybe none.

    Returns:
      name to file below the workdir.

    Raises:
      UserError: they cannot be written.
    """
    files = {}
    for head in heads:
        files[head.name] = f"{FOLDER}/{head.name.replace('/', '-')}-{key}.npz"
        if processes.first():
            save(epath.Path(workdir) / files[head.name], head)
    return files


def save(path: epath.Path, head: DenseHead) -> None:
    """Writes a head into a .npz file."""
    tree = {"head": head.variables, "backbone": head.backbone or {}}
    arrays = flax.traverse_util.flatten_dict(jax.device_get(tree), sep="/")
    fields = {f.name for f in dataclasses.fields(head.head)} - {"parent", "name"}
    told = {name: getattr(head, name) for name in ("name", "network", "size", "data", "stages", "output_stride")}
    told["head"] = {"class": type(head.head).__name__} | {name: getattr(head.head, name) for name in fields}
    told["answer"] = {"class": type(head.answer).__name__} | dataclasses.asdict(head.answer)  # type: ignore[call-overload]
    arrays_file.write(path, {k: np.ascontiguousarray(v) for k, v in arrays.items()}, json.dumps(told))


def load(path: epath.Path) -> DenseHead:
    """Reads what `save` wrote.

    Raises:
      UserError: if it is no such file.
    """
    arrays, text = arrays_file.read(path)
    try:
        told = {name: _tuples(value) for name, value in json.loads(text or "").items()}
        tree = flax.traverse_util.unflatten_dict(arrays, sep="/")
        for field, kinds in (("head", _KINDS), ("answer", answers.KINDS)):
            fields = {name: _tuples(value) for name, value in told[field].items()}
            told[field] = kinds[fields.pop("class")](**fields)
        return DenseHead(variables=tree["head"], backbone=tree.get("backbone"), **told)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no head that an evaluation stored: give one of the folder {FOLDER} of a workdir."
        ) from error


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def find(workdir: str, name: str) -> DenseHead:
    """The head of a name that the evaluation of a run stored, or that in a file.

    Raises:
      UserError: if there is none; names those that there are.
    """
    if name.endswith(".npz"):
        path = epath.Path(name)
        if not path.is_file():
            raise UserError(f"There is no head at {name}: give a file of the folder {FOLDER} of a workdir.")
        return load(path)
    folder = epath.Path(workdir)
    known = (stored_results.read(folder / "results.json") or {}).get(FOLDER, {}) if folder.is_dir() else {}
    if name not in known:
        there = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise UserError(
            f"There is no head '{name}' in {workdir}: {there}. Dense evaluations make them, for example "
            "--evals=segmentation_heads, depth, normals, boundaries or detection."
        )
    return load(folder / known[name])
