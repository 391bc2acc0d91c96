"""Does every nonsensical config end with one sentence instead of a traceback?

    python benchmarks/fuzz.py [--draws=2000] [--seed=0]

Each draw takes a method's preset of digits, gives one to three of its fields values that nobody should, builds the run
and traces its step, and must end with a run (status 0) or with one sentence (2). Prints how many of each there were,
and every draw that ended otherwise.
"""

import argparse
import collections
from collections.abc import Iterator
import pathlib
import random
import sys
import traceback
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax

from ssl_jax import recipes
from ssl_jax.batch import index
from ssl_jax.data import loader, train_test
from ssl_jax.methods import build
from ssl_jax.run import Run, prepare
from ssl_jax.runtime.errors import UserError
from ssl_jax.step import mapped_step

NONSENSE: dict[type, tuple[Any, ...]] = {
    bool: (True, False),
    int: (-(10**6), -1, 0, 1, 2, 3, 7, 10**5),
    float: (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-30, 0.3, 1.0, 2.0, 1e30),
    str: ("", "nonsense", "None", "../x", "a.b", "$x$", "\N{SNOWMAN}"),
    tuple: ((), (0,), (-1, -1), (1.5,), (float("nan"), 1.0), (3, 2, 1), ("a",), (1,) * 9),
    list: ([], [0], [-1], ["a"]),
    type(None): (None,),
}
# Other data, or another network: what they are is not a value.
_LEFT = ("data.source", "data.path", "data.target", "method.name", "init_from")


def cases(seed: int, methods: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Method and changed fields of one draw after the other, endlessly."""
    draw = random.Random(seed)
    while True:
        method = draw.choice(methods)
        fields = _fields(config(method).to_dict())
        names = draw.sample(sorted(set(fields) - set(_LEFT)), draw.randint(1, 3))
        yield method, {name: draw.choice(NONSENSE[type(fields[name])]) for name in names}


def config(method: str) -> Any:
    """The method's smallest preset, with little to build."""
    found = recipes.get_config(method, recipes.presets(method)[0])
    found.batch_size, found.epochs, found.model.width = 16, 2, 4
    return found


def _fields(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _fields(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def outcome(method: str, changes: dict[str, Any], splits: dict[str, Any], trace: bool) -> int:
    """The status of one draw; any other error is raised.

    Args:
      method: its name.
      changes: fields with nonsense.
      splits: the data by source, which is filled.
      trace: whether to trace the step, too.
    """
    c = config(method)
    if c.data.source not in splits:
        splits[c.data.source] = train_test.load(c.data)
    with c.ignore_type(), c.unlocked():
        c.update_from_flattened_dict(changes)
    try:
        own = any(name.startswith("data.") for name in changes)
        run = prepare(c, jax.devices()[:1], None if own else splits[c.data.source])
        if trace:
            _traced(run)
    except UserError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return UserError.status
    return 0


def _traced(run: Run) -> None:
    data = jax.eval_shape(lambda: dict(loader.on_devices(run.train, run.mesh)))
    jax.eval_shape(mapped_step(run), run.shapes, data, index(run, 0))


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prepare", action="store_true", help="build runs only, without tracing the step")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    splits: dict[str, Any] = {}
    drawn = cases(args.seed, build.names())
    for number in range(args.draws):
        method, changes = next(drawn)
        try:
            counts[str(outcome(method, changes, splits, not args.prepare))] += 1
        except Exception as error:
            counts["traceback"] += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            words = " ".join(str(error).split())[:150]
            print(f"{method} {changes}: {type(error).__name__} {words} ({last.filename}:{last.lineno})", flush=True)
        if number % 50 == 0:
            jax.clear_caches()
    print(f"{args.draws} draws, seed {args.seed}: {dict(sorted(counts.items()))}")
    return int(bool(counts["traceback"]))


if __name__ == "__main__":
    sys.exit(main())
