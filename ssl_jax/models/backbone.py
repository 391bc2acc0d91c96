"""The contract of a backbone. One file a backbone; nothing else has to know it.

A file of this folder, or a module anywhere, defines a subclass of `Backbone`. `config.model.name` is one of its
`names`, or the dotted path of its module.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.view import View
from ssl_jax.models.conv import INITS
from ssl_jax.models.onnx import Graph
from ssl_jax.runtime.errors import UserError, nearest


class Encoded(NamedTuple):
    """What a backbone makes of images."""

    pooled: jax.Array  # float32 [B, D]
    map: jax.Array | None  # [B, h, w, D]; None where there is none


class Pair(NamedTuple):
    """The name of one array here and in torch."""

    ours: str  # path in {'params', 'stats'}, joined by slashes
    theirs: str  # key of the state dict
    kind: str = "plain"  # how it lies in memory: plain, conv, dense or patch


class Backbone(nn.Module):
    """A network from images to features.

    Its fields are those of `config.model` that it needs. All have `bn_groups` (BatchNorm groups of the global batch,
    which heads take over) and `dtype` (type that is computed in). A backbone with `width` (channels of its first stage)
    can be halved, and one with `norm` says which normalisation it has.

    Parameters are dicts whose top-level names `stage_of` understands. The methods behind `filters` are for exchange
    with other programs; a backbone without them is exported as npz and safetensors.
    """

    options: ClassVar[frozenset[str]] = frozenset()  # of 'drop_path' (with 'keys'), 'visible' and 'masked': arguments
    pools_map: ClassVar[bool] = True  # features are the mean of the map, not a class token
    fixed_size: ClassVar[bool] = False  # an exported graph takes images of one size only

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """What `config.model.name` may be for this class; none for a class outside the package."""
        return ()

    @classmethod
    def from_config(cls, config: Any) -> "Backbone":
        """Builds it from `config.model`; by default every field is the config's field of that name.

        Raises:
          UserError: for a value without meaning.
        """
        own = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
        one_of("config.model.dtype", config.dtype, ("float32", "bfloat16"))
        if "conv_init" in own:
            one_of("config.model.conv_init", config.conv_init, INITS)
        return cls(**{k: v for k, v in config.items() if k in own} | {"dtype": jnp.dtype(config.dtype)})

    @property
    def stages(self) -> int:
        """Number of stages whose output can be asked for."""
        raise NotImplementedError

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that never move."""
        return ()

    def stage_of(self, name: str) -> int:
        """The stage that a part of the parameters belongs to, by its top-level name; 0: before the first.

        Here parts are called `stem`, `stage2` or `stage2_norm`.
        """
        return 0 if name.startswith("stem") else int(name.removeprefix("stage").split("_")[0])

    def last_blocks(self, count: int) -> tuple[float, ...]:
        """The values of `stage` whose outputs are those of the last blocks; here stages are the blocks."""
        return tuple(range(max(0, self.stages - count) + 1, self.stages + 1))

    def __call__(
        self, x: jax.Array, *, train: bool, stage: int | None = None, frozen: int = 0, pool: bool | None = True
    ) -> jax.Array | Encoded:
        """Encodes images; further arguments are those named in `options`.

        Args:
          x: normalised images [B, H, W, C].
          train: use the statistics of the batch, and update the running ones.
          stage: whose output is wanted, from 1; default the last.
          frozen: what lies before the first stage and so many stages keep their running statistics, and get no
            gradient.
          pool: return one vector an image; None: the vector and the map.

        Returns:
          features [B, D]; with `pool=False` the map [B, h, w, D]; with None both, as `Encoded`.
        """
        raise NotImplementedError

    @property
    def title(self) -> str:
        """The architecture, for people."""
        return type(self).__name__

    def filters(self, params: Any) -> np.ndarray | None:
        """Kernel [h, w, C, K] of the first layer, if that is a convolution (of patches, too)."""
        first = params.get("stem", params.get("stage1", {}))
        return np.asarray(first["kernel"]) if np.ndim(first.get("kernel")) == 4 else None

    def channels(self, params: Any) -> int:
        """Channels of the images that parameters are for."""
        kernel = self.filters(params)
        if kernel is None:
            raise NotImplementedError
        return kernel.shape[2]

    def usual_view(self, params: Any) -> View:
        """How the network wants to see an image where nothing says it: ImageNet's usual centre crop."""
        del params
        return View(size=224, crop="centre", centre=0.875, order=("crop",))

    def torch_pairs(self, layout: str) -> list[Pair]:
        """All arrays and their names in torch, in the network's order.

        Args:
          layout: 'torchvision' or 'timm'.

        Raises:
          UserError: for a network that has no namesake there.
        """
        del layout
        raise self._unnamed()

    def torch_twin(self) -> "Backbone":
        """The network that a state dict of this one belongs to."""
        return self

    def torch_params(self, params: Any, size: int) -> Any:
        """The parameters of `torch_twin`, for images of `size` pixels."""
        del size
        return params

    def taken_over(self, params: Any) -> Any:
        """The network's parameters from those of a state dict."""
        return params

    @classmethod
    def from_torch(cls, name: str, state: dict[str, np.ndarray], **options: Any) -> "Backbone":
        """The network that a state dict belongs to.

        Args:
          name: one of `names`.
          state: names of torchvision or timm, without prefix and without heads.
          **options: `heads` and `linear_stem`, as for `weights.torch_import.backbone`.

        Raises:
          UserError: if it is not this architecture.
        """
        del state, options
        raise UserError(f"There are no checkpoints of a {name} that could be brought in.")

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        """Python that builds `model` in torch, for the model card.

        Args:
          layout: 'torchvision' or 'timm'.
          channels: of the images.
          size: side of the images, pixels.

        Raises:
          UserError: for a network that cannot be built there.
        """
        del layout, channels, size
        raise self._unnamed()

    def _unnamed(self) -> UserError:
        return UserError(
            f"A {self.title} has no namesake in torchvision and timm: use the format npz, safetensors or onnx."
        )

    def onnx(self, graph: Graph, params: Any, stats: Any, size: int, mean: bool) -> int:
        """Writes the network into a graph, from the value 'images' [N, C, H, W] to 'features' [N, D].

        Args:
          graph: to write into.
          params: parameters.
          stats: running statistics.
          size: side of the images, pixels.
          mean: features are the mean of the map where they would be a class token.

        Returns:
          D.

        Raises:
          UserError: for a network that has no graph.
        """
        raise self._without_graph()

    def onnx_maps(
        self, graph: Graph, params: Any, stats: Any, size: tuple[int, int], stages: Sequence[int]
    ) -> list[str]:
        """Writes the network into a graph, from the value 'images' [N, C, H, W] to maps [N, D, h, w].

        Args:
          graph: to write into.
          params: parameters.
          stats: running statistics.
          size: height and width of the images, pixels.
          stages: whose maps are wanted, from 1.

        Returns:
          the names of the maps.

        Raises:
          UserError: for a network that has no graph, or no maps.
        """
        raise self._without_graph()

    def _without_graph(self) -> UserError:
        return UserError(f"There is no ONNX graph of a {self.title}: use the format npz or safetensors.")


def pooled(x: jax.Array, pool: bool | None) -> jax.Array | Encoded:
    """A map [B, h, w, D] as `pool` wants it: its mean over the image, itself, or (None) both."""
    return Encoded(x.mean((1, 2)), x) if pool is None else x.mean((1, 2)) if pool else x


def one_of(field: str, value: str, known: Iterable[str]) -> None:
    """Refuses a value of a field of the config that is not known."""
    if value not in known:
        raise UserError(f"{field} is '{value}', which is not known. {nearest(value, known)}")


def linear(ours: str, theirs: str, kind: str = "dense") -> list[Pair]:
    """The names of a linear layer."""
    return [Pair(f"params/{ours}/kernel", f"{theirs}.weight", kind), Pair(f"params/{ours}/bias", f"{theirs}.bias")]


def norm(ours: str, theirs: str) -> list[Pair]:
    """The names of a LayerNorm."""
    return [Pair(f"params/{ours}/scale", f"{theirs}.weight"), Pair(f"params/{ours}/bias", f"{theirs}.bias")]
