"""What cards and recipes are made of: changes of a config, as data."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple, Self

from ssl_jax.augment.view import View

Fields = Mapping[str, Any]


class Expected(NamedTuple):
    """A published result."""

    value: float  # share of the test images, 0 to 1
    measure: str  # one of MEASURES
    note: str = ""  # under what conditions, if not those of the recipe: "after 800 epochs"


MEASURES = {
    "linear": "top-1 of a linear classifier on frozen features",
    "attentive": "top-1 of an attentive classifier on frozen features",
    "knn": "top-1 of the weighted nearest neighbours (k = 200, T = 0.1 on CIFAR-10, k = 20, T = 0.07 on ImageNet)",
    "1nn": "top-1 of the nearest neighbour",
    "5nn": "top-1 of the five nearest neighbours",
    "fine_tune": "top-1 after fine-tuning all weights on all labels",
    "top1": "top-1 of the method's own classifier",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """Changes of a config: fields by the part of the config that they are of."""

    epochs: int | None = None
    batch_size: int | None = None
    data: Fields = dataclasses.field(default_factory=dict)
    model: Fields = dataclasses.field(default_factory=dict)
    method: Fields = dataclasses.field(default_factory=dict)
    optim: Fields | None = None  # the optimiser: what is not named is at `base.optimizer`'s default; None: no change
    groups: Mapping[str, Fields] = dataclasses.field(default_factory=dict)  # what other groups change of `optim`
    eval: Fields = dataclasses.field(default_factory=dict)
    run: Fields = dataclasses.field(default_factory=dict)

    def but(self, **changes: Any) -> Self:
        """This layer with changes: parts that are mappings are joined, all others (and `optim`) replaced.

        What was published of this one (`source`, `expected`) is not true of the other and left out, unless given.
        """
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in changes.items():
            if name != "optim" and isinstance(known[name], Mapping):
                changes[name] = {**known[name], **value}
        dropped = {name: known[name].__class__() for name in ("source", "expected") if name in known}
        return dataclasses.replace(self, **(dropped | changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card(Layer):
    """How networks are trained on a data set."""

    about: str  # one sentence
    source: str  # as `config.data.source`
    side: int  # of a view, pixels
    channels: int = 3
    strong: View | None = None  # of methods that compare views; None: what the method's class has
    weak: View | None = None  # of methods that predict what was done to an image; None: what the method's class has
    sgd: Fields = dataclasses.field(default_factory=lambda: {"learning_rate": 0.12, "weight_decay": 5e-4})
    has: frozenset[str] = frozenset()  # beyond images and labels: 'clips', 'domains', 'masks'; for what needs them
    benchmark: bool = False  # a variant of another card, which only methods with a recipe for it have

    @property
    def patch(self) -> int:
        """Side of a transformer's patches, pixels: the largest of at least 7 x 7 patches, where ViTs have 14 x 14."""
        return max(p for p in range(1, self.side // 7 + 1) if self.side % p == 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Layer):
    """The settings of a method on a data set.

    A field that the recipe does not name is the card's or the method class's: a recipe without views has those of the
    class, which are the paper's.
    """

    card: str = ""  # where the recipe's name is not its card's, as of 'imagenet_vit'
    source: str = ""  # section of the paper or the authors' file; of other people's recipes, whose
    expected: tuple[Expected, ...] = ()


def lars(order: str, **changes: Any) -> Fields:
    """LARS as most authors have it on ImageNet: 1-D parameters left out, ten epochs of warm-up.

    Args:
      order: learning rate 'inside' the momentum (SimCLR) or 'outside' (BYOL, MoCo v3, Barlow Twins, VICReg).
      **changes: field to another value.
    """
    return {"name": "lars", "exclude": "1d", "lars_order": order, "warmup_epochs": 10.0} | changes


def solo_larc(**changes: Any) -> Fields:
    """LARS as solo-learn has it for CIFAR: LARC that moves no layer further than SGD would, 1-D parameters left out."""
    return {"name": "larc", "exclude": "1d", "trust": 0.02, "trust_clip": True, "warmup_epochs": 10.0} | changes
