"""Where do the seconds of the test suite go?

    bash launch/test.sh --junitxml=suite.xml
    python benchmarks/suite.py suite.xml > docs/suite.md

A test's seconds are those of its process, with what it sets up. Those of processes that work side by side add up, to
more than the minutes on the clock.
"""

import collections
import datetime
import pathlib
import platform
import re
import sys
import xml.etree.ElementTree as ET

import joblib
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
METHODS = sorted(
    path.stem
    for path in ROOT.glob("ssl_jax/methods/*/*.py")
    if path.parent.name != "shared" and path.stem != "__init__"
)

GOAL = 20  # seconds that a method may take of what every one must pass

# Files of tests that are of no single method, by what they are about.
FAMILIES = {
    "views and augmentation": "augment crop targets threefry lab patches channels",
    "data": "cache data files folders sources stream streams samplers domains hold_out limits",
    "backbones, weights and export": "backbone models vit decoders heads weights gelu init_from layouts pixels "
    + "transfer",
    "training, resuming and faults": "train faults resume processes cluster old_runs optim health heap lock progress",
    "devices: sharding, FLOPs, memory and plans": "fsdp plan hlo flops step_overhead programs",
    "methods, several together": "adapt_losses adaptation continual masked_teachers other_labels semi_supervised "
    + "trackers",
    "authors' numbers": "trajectories lightly losses metric_meta_adapt",
    "evaluation": "evaluate knn linear few_label few_shot fine_tune label_curve logistic retrieval verification boxes "
    + "segmentation dense dense_metrics results classifier",
    "command line, configs and documents": "cli commands recipes launch notebooks report table style structure docs "
    + "embed",
}


def family(file: str) -> str:
    """The family of a file of tests, by its name without `test_`."""
    if file == "methods":
        return "what every method must pass"
    if file in METHODS or any(file.startswith(name) or name.startswith(file) for name in METHODS):
        return "methods, each by itself"
    return next((name for name, files in FAMILIES.items() if file in files.split()), "other")


def method_of(test: str) -> str | None:
    """The method in the brackets of a test's name."""
    words = re.findall(r"\[(.*)\]", test)
    names = [name for name in METHODS if words and re.search(rf"(^|-){re.escape(name)}(-|$)", words[0])]
    return max(names, key=len, default=None)


def dearest(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """Names and their seconds, the most first."""
    return sorted(seconds.items(), key=lambda item: -item[1])


def text(report: pathlib.Path) -> str:
    """The document, of a report of pytest."""
    suite = next(ET.parse(report).getroot().iter("testsuite"))
    families: dict[str, list[float]] = collections.defaultdict(list)
    methods: dict[str, float] = collections.defaultdict(float)
    files: dict[str, float] = collections.defaultdict(float)
    for case in suite.iter("testcase"):
        file = case.get("classname", "").split(".")[-1].removeprefix("test_")
        seconds = float(case.get("time", 0))
        families[family(file)].append(seconds)
        files[file] += seconds
        if file == "methods" and (name := method_of(case.get("name", ""))):
            methods[name] += seconds
    total = sum(map(sum, families.values()))
    day = datetime.date.fromisoformat(suite.get("timestamp", "")[:10])
    lines = [
        "# Where the seconds of the test suite go",
        "",
        f"`bash launch/test.sh --junitxml=suite.xml`, then `python benchmarks/suite.py suite.xml`. {day}, Python "
        f"{platform.python_version()}, {joblib.cpu_count()} cores, two processes: {suite.get('tests')} tests, "
        f"{suite.get('skipped')} of them skipped, in {float(suite.get('time', 0)) / 60:.1f} minutes on the clock.",
        "",
        "| tests | number | seconds | share |",
        "|---|---|---|---|",
    ]
    for name, each_test in sorted(families.items(), key=lambda item: -sum(item[1])):
        lines.append(f"| {name} | {len(each_test)} | {sum(each_test):.0f} | {sum(each_test) / total:.0%} |")
    each = np.array(sorted(methods.values()))
    dear = [(name, seconds) for name, seconds in dearest(methods) if seconds > GOAL]
    over = ", ".join(f"{name} {seconds:.0f}" for name, seconds in dear) or "none"
    slow = ", ".join(f"`test_{name}.py` {seconds:.0f}" for name, seconds in dearest(files)[:8])
    lines += [
        "",
        f"What every method must pass takes {np.median(each):.0f} seconds a method (median of {len(each)}; of all "
        f"{each.sum() / 60:.1f} minutes), which is what a further method adds beside the tests in its own file. More "
        f"than {GOAL} seconds each: {over}. The files that take most: {slow}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(text(pathlib.Path(sys.argv[1])))
