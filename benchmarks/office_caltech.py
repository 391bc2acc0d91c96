"""Adaptation on Office-Caltech10: `python benchmarks/office_caltech.py office_caltech10_surf.npz`.

Measures every row of `ssl_jax/metrics/adaptation.py` on all twelve pairs of domains of the SURF histograms of Gong et
al. 2012 and writes docs/office_caltech.jsonl, a line a pair. Protocol: all images of the source, all of the target,
one run. The file has the arrays DOMAIN_x [N, 800], counts, and DOMAIN_y [N] of amazon, caltech10, dslr and webcam.
"""

import itertools
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from ssl_jax.metrics import adaptation

DOMAINS = {"C": "caltech10", "A": "amazon", "W": "webcam", "D": "dslr"}
TARGET = pathlib.Path(__file__).resolve().parents[1] / "docs" / "office_caltech.jsonl"


def load(path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Letter of a domain to histograms that sum to 1 and labels from 0."""
    with np.load(path) as file:
        raw = {letter: (file[f"{name}_x"].astype(float), file[f"{name}_y"]) for letter, name in DOMAINS.items()}
    return {letter: (x / x.sum(1, keepdims=True), y.astype(int) - y.min()) for letter, (x, y) in raw.items()}


def main(path: str) -> None:
    """Measures all pairs."""
    domains, lines = load(path), []
    for own, other in itertools.permutations(DOMAINS, 2):
        began = time.time()
        found = adaptation.accuracies(*domains[own], *domains[other])
        print(
            own, other, {name: round(100 * value, 1) for name, value in found.items()}, f"{time.time() - began:.0f} s"
        )
        lines.append(json.dumps({"pair": own + other, "accuracy": {k: round(v, 5) for k, v in found.items()}}))
    TARGET.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
