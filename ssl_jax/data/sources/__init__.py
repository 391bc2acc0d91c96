"""Data sources, one file each; a source is called as its file: `digits.py` is the source "digits".

A new one needs no edit elsewhere. `Source` says what the file defines.
"""

from typing import Protocol

from ssl_jax.data.dataset import Card, Dataset, Request


class Source(Protocol):
    """What the module of a source defines.

    Where a source holds several data sets, `CARDS` may map the place after the colon to a card of its own. Where the
    images come with a package, `BUNDLED = True` says that a path has no meaning.
    """

    CARD: Card

    def load(self, where: str, path: str | None, request: Request) -> Dataset:
        """Loads one split into memory.

        Args:
          where: the part of the source's name after the colon, if any.
          path: config.data.path, where the files lie.
          request: which split, and how large.

        Raises:
          UserError: absent, damaged or too large, or there is no such split; says what was looked for where.
        """
        ...

    def splits(self, where: str, path: str | None) -> tuple[str, ...]:
        """Returns which of "train" and "test" there are."""
        ...

    def listing(self, where: str, path: str | None, request: Request) -> Dataset:
        """As `load`, but the images stay where they are; a source that cannot be streamed has no such function."""
        ...
