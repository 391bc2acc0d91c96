"""Vision transformers whose patches have rotary positions, as DINOv3's: `vit_small_rope` and the like."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from ssl_jax.augment.view import View
from ssl_jax.models import rotary
from ssl_jax.models import transformer_exchange as exchange
from ssl_jax.models.backbone import Backbone, Pair
from ssl_jax.models.onnx import Graph
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.runtime.errors import UserError

_ROPE, _PERIODS = "_rope", "rope_embed.periods"


class RotaryViT(ViT):
    """A vision transformer whose queries and keys are turned by their place; class token and registers are not."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(f"{size}{_ROPE}" for size in SIZES)

    @classmethod
    def from_config(cls, config: Any) -> Backbone:
        if config.positions != "learned":
            raise UserError(
                f"config.model.positions is '{config.positions}', but {config.name} has rotary ones: drop it."
            )
        made = super().from_config(ConfigDict({**config, "name": config.name.removesuffix(_ROPE)}))
        rotary.check(made.heads, SIZES[made.size][0])  # type: ignore[attr-defined]
        return made

    @staticmethod
    def suits(state: dict[str, np.ndarray]) -> bool:
        """Whether a state dict is that of such a network (DINOv3's)."""
        return _PERIODS in state

    @classmethod
    def from_torch(cls, name: str, state: dict[str, np.ndarray], **options: Any) -> Backbone:
        made = super().from_torch(name.removesuffix(_ROPE), state, **options)
        width, _, heads = SIZES[made.size]  # type: ignore[attr-defined]
        wanted = rotary.periods(width // (made.heads or heads))  # type: ignore[attr-defined]
        given = state.get(_PERIODS, wanted)
        if given.shape != wanted.shape or not np.allclose(given, wanted, rtol=1e-2):  # the authors round to bfloat16
            raise UserError(
                f"{_PERIODS} is {given}, where positions here turn with {wanted}: these weights would see other places."
            )
        return made

    @property
    def title(self) -> str:
        return f"{super().title}, rotary positions"

    def _turns(self, grid: tuple[int, int], visible: jax.Array | None) -> jax.Array:
        return self.turns_of(grid, visible)

    def turns_of(
        self, grid: tuple[int, int], visible: jax.Array | None = None, change: rotary.Change | None = None
    ) -> jax.Array:
        """Rotary positions of all tokens; arguments as of `rotary.turns`."""
        width, _, heads = SIZES[self.size]
        return rotary.turns(grid, width // (self.heads or heads), 1 + self.registers, visible, change)

    def _positions(self, grid: tuple[int, int], width: int) -> jax.Array:
        """Nothing is added to the tokens."""
        return jnp.zeros((1, 1 + grid[0] * grid[1], 1))

    def usual_view(self, params: Any) -> View:
        """DINOv3's: 16 patches a side."""
        return View(size=16 * self.patch, crop="centre", interpolation="bicubic", order=("crop",))

    def torch_twin(self) -> Backbone:
        return self

    def torch_params(self, params: Any, size: int) -> Any:
        return params

    def taken_over(self, params: Any) -> Any:
        return params

    def torch_pairs(self, layout: str) -> list[Pair]:
        """DINOv3's names, which are timm's but for the registers'."""
        if layout == "torchvision":
            raise UserError(
                "torchvision's transformers have learned positions: use the format npz, safetensors or onnx."
            )
        return [pair for pair in super().torch_pairs(layout) if pair.ours != "params/positions"]

    def torch_code(self, layout: str, channels: int, size: int) -> str:
        raise UserError(
            f"There is no Python that builds a transformer with rotary positions in {layout}: use the format npz, "
            "safetensors or onnx."
        )

    def table(self, params: Any, grid: tuple[int, int]) -> np.ndarray:
        return np.zeros((1, 1 + grid[0] * grid[1], SIZES[self.size][0]))

    def onnx_blocks(self, graph: Graph, params: Any, grid: tuple[int, int]) -> list[str]:
        x, turns = self.onnx_tokens(graph, params, grid), np.asarray(self._turns(grid, None))
        heads = self.heads or SIZES[self.size][2]
        return exchange.onnx_blocks(graph, x, params, heads, self.feed_forward, turns)
