"""Errors that are written for the person at the keyboard."""

from collections.abc import Callable, Iterable
import difflib
import errno
import functools
import os
import sys
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence: what is wrong, where it was looked for and what to do. A program's `main` prints it
    without a traceback and exits with `status`.
    """

    status = 2  # a mistake, which the same command would repeat


class TryAgain(UserError):
    """Something that may pass by itself, like a network that is away: the same command goes on where it was."""

    status = 75  # as `processes.RESUMABLE`


def no_writing(error: BaseException | None) -> str:
    """Why nothing can be written, if that is what an error, or one behind it, says.

    Returns:
      'is full' or 'cannot be written any more', to follow "the disk"; '' for any other error.
    """
    while error is not None:
        number, words = getattr(error, "errno", None), str(error)
        # TensorStore says so in words alone.
        if number in (errno.ENOSPC, errno.EDQUOT) or any(os.strerror(n) in words for n in _FULL):
            return "is full"
        if number in (errno.EROFS, errno.EIO) or os.strerror(errno.EROFS) in words:
            return "cannot be written any more"
        error = error.__cause__ or error.__context__
    return ""


def in_the_way(error: BaseException | None) -> str:
    """What stands where a file or folder of ours belongs, if that is what an error, or one behind it, says.

    Returns:
      a sentence, as of a folder called `config.json`; '' for any other error.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _IN_THE_WAY and error.filename is not None:
            return (
                f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}): see what is there, and move it away "
                "or choose another place."
            )
        error = error.__cause__ or error.__context__
    return ""


def explained(main: Callable[..., int]) -> Callable[..., int]:
    """Wraps a program's `main`: it prints a `UserError`, or that a disk is full, without a traceback.

    It then returns the status of the error.
    """

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.status
        except OSError as error:
            if why := no_writing(error):
                print(f"Error: The disk {why} ({error}): nothing that was there is changed.", file=sys.stderr)
                return UserError.status
            if not (words := in_the_way(error)):
                raise
            print(f"Error: {words}", file=sys.stderr)
            return UserError.status

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
