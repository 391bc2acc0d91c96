"""Progress of what takes long beside training: a bar on a terminal, which vanishes when it is done; else nothing."""

from collections.abc import Iterator
import contextlib
import sys

from tqdm import tqdm

from ssl_jax.runtime import processes

_what: list[str] = []  # what is computed now; empty: nobody wants to see bars
_bars: list[tqdm] = []


@contextlib.contextmanager
def of(what: str) -> Iterator[None]:
    """Shows bars for what is counted inside, with this name before them."""
    _what.append(what)
    try:
        yield
    finally:
        _what.pop()


@contextlib.contextmanager
def counted(total: int, unit: str = "") -> Iterator[None]:
    """A bar with the time left, which `tick` moves; within another one, that one is moved instead.

    Args:
      total: ticks until the end.
      unit: what is counted, in the plural.
    """
    if not _what or _bars or not sys.stderr.isatty() or not processes.first():
        yield
        return
    bar = tqdm(total=total, desc=_what[-1], unit=f" {unit}", leave=False, delay=1.0, dynamic_ncols=True)
    _bars.append(bar)
    try:
        yield
    finally:
        _bars.pop().close()


def tick(count: int = 1) -> None:
    """Moves the bar, if there is one."""
    if _bars:
        _bars[-1].update(count)


def shown() -> bool:
    """Whether there is a bar."""
    return bool(_bars)
