"""Types of a method's fields that say which values they may have; `limits.check` refuses others.

Without one of them a number is at least 0, and a whole number whose default is above 0 is a count or a width, which is
at least 1.
"""

from typing import Annotated, NamedTuple


class Range(NamedTuple):
    """Values from `least` on; `words` follow "it must be"."""

    words: str
    least: float = 0.0
    most: float = float("inf")
    above: bool = False  # `least` itself is none of them
    below: bool = False  # nor is `most`

    def has(self, value: float) -> bool:
        """Whether a value is one of them."""
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)


OrZero = Annotated[int, Range("at least 0")]  # a count that may be 0 although it is not by default
Several = Annotated[int, Range("at least 2", least=2)]  # of one, the answer or the direction would be the same always
Positive = Annotated[float, Range("above 0", above=True)]
Rising = Annotated[float, Range("at least 1", least=1)]  # a factor and its inverse are bounds
Share = Annotated[float, Range("from 0 to 1", most=1)]
BelowOne = Annotated[float, Range("below 1", most=1, below=True)]
