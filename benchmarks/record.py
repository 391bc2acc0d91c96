"""Where measurements are kept: docs/benchmarks.jsonl, a line a measurement with its machine, versions and commit."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax
import joblib

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "benchmarks.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "torch")


def circumstances() -> dict[str, Any]:
    """Commit, machine, load of it by other programs, and versions, as they are now."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "commit": described.stdout.strip(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def machine() -> str:
    """The accelerators of this machine, or its processor and cores."""
    device = jax.devices()[0].device_kind
    if device != "cpu":
        return f"{jax.device_count()} x {device}"
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{joblib.cpu_count()} cores, {names[0] if names else platform.processor() or platform.machine()}"


def add(results: Any, **settings: Any) -> None:
    """Appends what the benchmark that is running has measured.

    Args:
      results: JSON, by the names of what is measured, with their units.
      **settings: what it was measured of.
    """
    row = {"benchmark": pathlib.Path(sys.argv[0]).stem, **settings, "results": results, **circumstances()}
    with RECORDS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def told() -> str:
    """One line about the circumstances, for what a benchmark prints."""
    now = circumstances()
    versions = ", ".join(f"{name} {version}" for name, version in now["versions"].items())
    return f"{now['machine']} (load {now['load']}), {versions}, commit {now['commit']}, {now['date']}"
