"""Errors that are written for the person at the keyboard."""

from collections.abc import Callable, Iterable
import difflib
import functools
import sys
from typing import Any


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence: what is wrong, where it was looked for and what to do. A program's `main` prints it
    without a traceback and exits with `status`.
    """

    status = 2  # a mistake, which the same command would repeat


class TryAgain(UserError):
    """Something that may pass by itself, like a network that is away: the same command goes on where it was."""

    status = 75  # as `processes.RESUMABLE`


def explained(main: Callable[..., int]) -> Callable[..., int]:
    """Wraps a program's `main`: it prints a `UserError` without a traceback, and then returns its status."""

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.status

    return wrapped


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint for a misspelt name.

    Args:
      word: what the user wrote.
      known: the names that would have been accepted.

    Returns:
      "Did you mean 'x'?" for a close match, otherwise the list of known names.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(known)}."
