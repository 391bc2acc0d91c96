"""The table of random streams: every number that a run folds into a key to get another one.

Keys form a tree, so that no two consumers share one, and nothing has to be stored to resume: a key follows from the
seed, the step, a name and a position.

| folded into            | what for                                  | number                                      |
|------------------------|-------------------------------------------|---------------------------------------------|
| the run's key (seed)   | the initial weights                       | `WEIGHTS`                                   |
| the run's key          | an update: "the update's key"             | updates before it                           |
| the update's key       | a view                                    | `view`: 0, 1, ...                           |
| the update's key       | the loss, and then a micro-batch          | `loss`: after those of the views; 0, 1, ... |
| the update's key       | a named part of the batch, then its views | `part`: 2^31 - 2, and downwards             |
| the update's key       | which variant of the method it shows      | `VARIANT`                                   |
| the update's key       | what precedes an epoch's first update     | `EPOCH`                                     |
| the epoch's key        | the views it embeds; the method's own key | `EPOCH_VIEWS`; `EPOCH_METHOD`               |
| a view's key           | an image                                  | its position in the global batch            |

Numbers are looked up by name. Which number belongs to which name follows from the order in which a method declares its
views and a sampler its parts: runs of earlier versions, which counted them, resume with the numbers they had.
"""

from collections.abc import Iterable

WEIGHTS = 2**31 - 1
EPOCH = 2**31 - 1
VARIANT = 2**30
EPOCH_VIEWS, EPOCH_METHOD = 0, 1
_FIRST_PART = 2**31 - 2


def view(views: Iterable[str], name: str) -> int:
    """Stream of the view `name` among the `views` of a method, in the order of their declaration."""
    return list(views).index(name)


def loss(views: Iterable[str]) -> int:
    """Stream of the loss of a method with these `views`."""
    return len(list(views))


def part(parts: Iterable[str], name: str) -> int:
    """Stream of the part `name` among the named `parts` of a batch, in the order of their declaration."""
    return _FIRST_PART - list(parts).index(name)
