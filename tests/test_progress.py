"""Progress of evaluations: a bar with the time left on a terminal, nothing elsewhere, the same numbers in both."""

import io
import sys

import numpy as np
import pytest

from ssl_jax.metrics import few_label, linear, logistic
from ssl_jax.runtime import progress

pytestmark = pytest.mark.fast


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def begin(monkeypatch):
    """Begins a terminal that shows bars at once; pytest puts its own stderr back after the set-up."""
    bar = progress.tqdm
    monkeypatch.setattr(progress, "tqdm", lambda **settings: bar(**settings | {"delay": 0, "mininterval": 0}))

    def begun():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return begun


def count(number):
    with progress.counted(number, "fits"):
        for _ in range(number):
            progress.tick()


def test_a_bar_counts_names_and_vanishes(begin):
    terminal = begin()
    with progress.of("layers (4 of 11)"):
        count(3)
    shown = terminal.getvalue().split("\r")
    assert any("layers (4 of 11)" in x and "2/3" in x and "fits" in x and "<" in x for x in shown)
    assert shown[-1].strip() == "" and not progress.shown()


def test_what_is_within_moves_the_bar_around_it(begin):
    terminal = begin()
    with progress.of("layers"), progress.counted(6, "fits"):
        count(3)
        count(3)
    assert "6/6" in terminal.getvalue() and "/3" not in terminal.getvalue()


def test_nothing_is_shown_in_training_or_without_a_terminal(begin, monkeypatch):
    terminal = begin()
    count(3)  # nobody asked: the training loop has a bar of its own
    assert terminal.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.of("knn"):
        count(3)
    assert sys.stderr.getvalue() == ""


def test_the_processes_after_the_first_are_quiet(begin, monkeypatch):
    terminal = begin()
    monkeypatch.setattr(progress.processes, "first", lambda: False)
    with progress.of("knn"):
        count(3)
    assert terminal.getvalue() == ""


def test_an_error_takes_the_bar_away(begin):
    begin()
    with pytest.raises(ValueError, match="no"), progress.of("knn"), progress.counted(3, "fits"):
        raise ValueError("no")
    assert not progress.shown()


@pytest.mark.parametrize("probe", [linear.probe, logistic.probe])
def test_probes_count_to_their_end_and_find_the_same(begin, probe):
    terminal = begin()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)).astype(np.float32), np.arange(60) % 3
    options = {"epochs": 7} if probe is linear.probe else {}
    quiet = probe(x, y, x[:12], y[:12], num_classes=3, **options)
    with progress.of("probe"):
        assert probe(x, y, x[:12], y[:12], num_classes=3, **options) == quiet
    total = 14 if options else logistic.fits()
    assert f"{total}/{total}" in terminal.getvalue()


def test_the_few_label_table_counts_all_its_fits(begin):
    terminal = begin()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 8)).astype(np.float32), np.arange(40) % 2
    with progress.of("few_label"):
        few_label.few_label({"a": (x, x[:10]), "b": (x, x[:10])}, y, y[:10], counts=(1, None), draws=3)
    assert "8/8" in terminal.getvalue()
