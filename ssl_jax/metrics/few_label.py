"""Accuracy with few labelled images, compared with baselines that anyone could use instead.

Pixels, their principal components and the untrained backbone are the rows that a pretrained representation
has to beat; all are measured by the same classifier on the same labelled images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from ssl_jax.metrics import logistic
from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError

# Inverse strength of the L2 penalty at unit scale. Tried on CIFAR-10 with 20,000 images: from 10 to 100 the
# cells of 1 and 10 labels per class move by at most 1.3 points; with all labels pixels prefer 10 (40.9 instead
# of 38.7 %, less overfitting) and features of a convolutional network 100 (47.1 instead of 45.1 %).
_C = 30.0
# Twenty thousand images of 3072 pixels then take about a minute on two cores; with ten labels per class all
# fits tried needed fewer than a hundred iterations.
MAX_ITERATIONS = 300
MAX_IMAGES = 20_000
_ROWS = 2**16  # centred at a time


def few_label(
    representations: Mapping[str, tuple[ArrayLike, ArrayLike]],
    train_y: ArrayLike,
    test_y: ArrayLike,
    *,
    counts: Sequence[int | None] = (1, 5, 10, None),
    draws: int = 5,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Measures multinomial logistic regression on `count` labelled images per class, for each representation.

    Draw number i takes the same labelled images for every representation, and the images of a smaller count
    are among those of a larger one.

    Each representation is centred and divided by one number, so that the mean squared distance from the mean
    is 1; both come from all training images, which needs no labels. One number rather than one a channel:
    it makes the penalty mean the same for every representation whatever its size and width, and keeps its
    geometry, so that pixels and all their principal components score alike. Standardising each channel halves
    what principal components score with one label a class (digits: 33 instead of 64 %), as it blows up the
    components that carry little, and would flatter whatever they are compared with.

    Args:
      representations: name -> (train_x [N, ...], test_x [M, ...]), for example pixels, pca, untrained,
        pretrained. Trailing axes are flattened.
      train_y: [N] integer labels. Rows with -1 are never drawn but count for the centring and scale.
      test_y: [M] integer labels; rows with -1 are dropped.
      counts: labelled images per class; None for all.
      draws: number of draws. For None there is one fit, to all labelled images or, of more than
        `MAX_IMAGES`, to that many drawn at random.
      seed: of the draws.

    Returns:
      For each count ('1', '5', ..., 'all') name -> {'mean', 'std': of the accuracy over the draws (sample
      standard deviation; 0 for a single fit), 'fits', 'unconverged': how many fits stopped at
      `MAX_ITERATIONS`, 'images': training images in a fit}. A count that some class cannot fill is
      {'skipped': reason} instead. Everything is JSON.

    Raises:
      UserError: shapes do not fit, a feature is not finite, or there are fewer than two labelled classes or
        no labelled test image.
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    _check(train_y, test_y, counts, draws)
    results: dict[str, dict[str, Any]] = {}
    plans: dict[str, list[np.ndarray]] = {}  # rows of each fit
    for count in counts:
        name = "all" if count is None else str(count)
        if reason := _too_few(train_y, count):
            results[name] = {"skipped": reason}
        else:
            results[name] = {}
            plans[name] = [_draw(train_y, count, seed, i) for i in range(1 if count is None else draws)]

    with progress.counted(len(representations) * sum(map(len, plans.values())), "fits"):
        for name, (train_x, test_x) in representations.items():
            known = test_y >= 0
            train_x, test_x = flat(train_x), flat(test_x)
            scaled = scaling(name, train_x, test_x, len(train_y), len(test_y))
            test_x = scaled(test_x[known])
            for count_name, rows in plans.items():
                fits = [fit(scaled(train_x[r]), train_y[r], test_x, test_y[known]) for r in rows]
                results[count_name][name] = _cell_of(fits, len(rows[0]))
    return results


def _cell_of(fits: list[tuple[float, bool]], images: int) -> dict[str, Any]:
    accuracies = [accuracy for accuracy, _ in fits]
    return {
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies, ddof=1)) if len(fits) > 1 else 0.0,
        "fits": len(fits),
        "unconverged": sum(not converged for _, converged in fits),
        "images": images,
    }


def pca(train_x: ArrayLike, test_x: ArrayLike, components: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Projects on the principal components of the training inputs, without whitening.

    Args:
      train_x: [N, ...] inputs; trailing axes are flattened.
      test_x: [M, ...] inputs.
      components: number of components, limited to min(N, D).

    Returns:
      Float32 features [N, components] and [M, components]; the same inputs give the same features.
    """
    train_x, test_x = flat(train_x), flat(test_x)
    # The seed matters for the randomised solver, which scikit-learn takes for large inputs.
    model = PCA(min(components, *train_x.shape), random_state=0).fit(train_x)
    return model.transform(train_x), model.transform(test_x)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Renders what `few_label` returned as an aligned table for the terminal.

    Args:
      results: the return value of `few_label`.

    Returns:
      A header and one line a count, accuracies in percent as 'mean ± standard deviation' (a single fit has
      no spread). A star marks cells where some fit did not converge; skipped counts are explained below.
    """
    done = {count: row for count, row in results.items() if "skipped" not in row}
    names = list(next(iter(done.values()), {}))
    lines = [["labels per class", *names]]
    lines += [[_label(count, row), *(_cell(row[name]) for name in names)] for count, row in done.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [" | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "-|-".join("-" * w for w in widths))
    if any("*" in line for line in text):
        text.append(f"* not every fit converged within {MAX_ITERATIONS} iterations")
    text += [f"{count}: skipped, {row['skipped']}" for count, row in results.items() if "skipped" in row]
    return "\n".join(text)


def _label(count: str, row: Mapping[str, Any]) -> str:
    return f"all ({next(iter(row.values()))['images']} images)" if count == "all" and row else count


def _cell(cell: Mapping[str, Any]) -> str:
    spread = f" ± {100 * cell['std']:.1f}" if cell["fits"] > 1 else ""
    return f"{100 * cell['mean']:.1f}{spread}{'*' if cell['unconverged'] else ''}"


def _check(train_y: np.ndarray, test_y: np.ndarray, counts: Sequence[int | None], draws: int) -> None:
    if draws < 1 or any(count is not None and count < 1 for count in counts):
        raise UserError(f"The few-label evaluation got counts={counts}, draws={draws}; make them 1 or more.")
    if len(np.unique(train_y[train_y >= 0])) < 2:
        raise UserError("The few-label evaluation needs training labels of two classes; label more images.")
    if not (test_y >= 0).any():
        raise UserError("The few-label evaluation needs labelled test images, but all labels are -1.")


def _too_few(labels: np.ndarray, count: int | None) -> str | None:
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    smallest = np.argmin(sizes)
    if count is None or sizes[smallest] >= count:
        return None
    return f"class {classes[smallest]} has only {sizes[smallest]} labelled training images"


def _draw(labels: np.ndarray, count: int | None, seed: int, draw: int) -> np.ndarray:
    """Returns the rows of one draw; no representation is in sight, so all get the same."""
    rng = np.random.default_rng([seed, draw])
    if count is None:
        return rng.permutation(np.flatnonzero(labels >= 0))[:MAX_IMAGES]
    classes = np.unique(labels[labels >= 0])
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c in classes])


def flat(x: ArrayLike) -> np.ndarray:
    """As float32 rows [N, D]; trailing axes are flattened."""
    x = np.asarray(x, np.float32)
    return x.reshape(len(x), -1)


def scaling(
    name: str, train: np.ndarray, test: np.ndarray, train_size: int, test_size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """What centres rows and divides them by one number, with which the mean square of the training rows is 1.

    It makes a copy, and is meant for the rows that are fitted: all of them may be too many.

    Args:
      name: of the representation, for errors.
      train: float32 [N, D].
      test: float32 [M, D].
      train_size: number of training labels.
      test_size: number of test labels.

    Raises:
      UserError: shapes do not fit the numbers of labels, or a feature is not finite; says which representation.
    """
    if train.shape[1] != test.shape[1] or (len(train), len(test)) != (train_size, test_size):
        raise UserError(
            f"The representation '{name}' has shapes {train.shape} and {test.shape}, for {train_size} "
            f"training and {test_size} test labels; give one row for each label, and one width."
        )
    mean = train.mean(0, dtype=np.float64).astype(np.float32)
    parts = [train[start : start + _ROWS] for start in range(0, len(train), _ROWS)]
    lengths = np.concatenate([np.linalg.norm(part - mean, axis=1) for part in parts]).astype(np.float64)
    scale = np.sqrt(np.square(lengths).mean())
    if not np.isfinite(scale) or not np.isfinite(test).all():
        raise UserError(f"The representation '{name}' has NaN or infinity; look at the model that made it.")

    def scaled(rows: np.ndarray) -> np.ndarray:
        rows = rows - mean
        if scale > 0:  # 0: collapsed to one point
            rows /= scale
        return rows

    return scaled


def fit(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> tuple[float, bool]:
    """Fits logistic regression; returns its accuracy on the test set and whether the optimiser converged."""
    model = LogisticRegression(C=_C, max_iter=MAX_ITERATIONS)
    converged = logistic.fit(model, train_x, train_y)
    return float(model.score(test_x, test_y)), converged
