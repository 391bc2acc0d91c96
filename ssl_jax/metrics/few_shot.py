"""Few-shot episodes on frozen features: small classification tasks, each from a handful of labelled images."""

import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError

QUERIES = 15  # images a class that an episode is scored on (methods.md 7.6, as MAML and prototypical networks)
EPISODES = 600  # MAML
# scikit-learn's `C` of the logistic regression on features of length one, as Tian et al. 2020 ("Rethinking few-shot
# image classification") have it.
_C = 1.0
_BLOCK = 50  # episodes in memory at a time


def few_shot(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    ways: int,
    shots: int,
    centre: ArrayLike,
    queries: int = QUERIES,
    episodes: int = EPISODES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Mean accuracy over episodes of `ways` classes with `shots` labelled images each.

    Two classifiers of features that are centred and scaled to length one (SimpleShot's CL2N, Wang et al. 2019): the
    nearest class mean in squared Euclidean distance, and logistic regression. And the nearest class mean of features as
    they are, which is what prototypical networks (Snell et al. 2017) train for. An image is never both labelled and
    scored in one episode. The same seed gives all features the same episodes.

    Args:
      x: [N, D] features of images that played no part in `centre`.
      labels: [N] integers, -1 where unknown. Classes of fewer than shots + queries images take no part.
      ways: classes in an episode.
      shots: labelled images per class.
      centre: [D] what is subtracted: the mean of the training features.
      queries: scored images a class.
      episodes: number of episodes.
      seed: of the episodes.

    Returns:
      'prototypes', 'logistic' and, of features as they are, 'euclidean': the mean over the episodes in [0, 1], and
      the half width of its 95 % interval, 1.96 times the (population) standard deviation over the episodes by the root
      of their number.

    Raises:
      UserError: shapes do not fit, or too few classes have enough images.
    """
    x, labels = np.asarray(x, np.float32), np.asarray(labels)
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise UserError(f"Few-shot episodes need features [N, D] and labels [N], not {x.shape} and {labels.shape}.")
    unit = x - np.asarray(centre, np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    classifiers = {
        "prototypes": (unit, nearest_prototype),
        "logistic": (unit, logistic),
        "euclidean": (x, nearest_prototype),
    }
    support, query = draw(labels, ways, shots, queries, episodes, seed)
    targets = np.repeat(np.arange(ways), queries)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in classifiers}
    with progress.counted(episodes, "episodes"):
        for start in range(0, episodes, _BLOCK):
            rows = slice(start, start + _BLOCK)
            for name, (seen, classify) in classifiers.items():
                s, q = seen[support[rows]], seen[query[rows]]  # [E, ways, shots or queries, D]
                s, q = (a.reshape(len(a), -1, x.shape[1]) for a in (s, q))
                scores[name].append((classify(s, q, ways) == targets).mean(1))
            progress.tick(len(support[rows]))
    return _summary(scores)


def classes_with(labels: ArrayLike, count: int) -> np.ndarray:
    """The classes of at least `count` labelled images."""
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    return classes[sizes >= count]


def draw(
    labels: np.ndarray, ways: int, shots: int, queries: int, episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws rows for the episodes: support [E, ways, shots] and query [E, ways, queries], class by class.

    Raises:
      UserError: if fewer than `ways` classes have shots + queries images.
    """
    classes = classes_with(labels, shots + queries)
    if min(ways, shots, queries, episodes) < 1 or len(classes) < ways:
        raise UserError(
            f"Episodes of {ways} classes with {shots} labelled and {queries} scored images each cannot be drawn: only "
            f"{len(classes)} classes have so many images; lower the numbers or label more."
        )
    rng = np.random.default_rng([seed, ways, shots])
    members = {c: np.flatnonzero(labels == c) for c in classes}
    chosen = [rng.choice(classes, ways, replace=False) for _ in range(episodes)]
    rows = np.array([[rng.choice(members[c], shots + queries, replace=False) for c in some] for some in chosen])
    return rows[..., :shots], rows[..., shots:]


def nearest_prototype(support: np.ndarray, query: np.ndarray, ways: int) -> np.ndarray:
    """Classes [E, M] of queries [E, M, D] by the nearest mean of the support [E, ways * shots, D] (class by class)."""
    means = support.reshape(len(support), ways, -1, support.shape[-1]).mean(2)
    # The query's own square is the same for all classes.
    distance = np.square(means).sum(-1)[:, None] - 2 * query @ means.swapaxes(1, 2)
    return distance.argmin(-1)


def logistic(support: np.ndarray, query: np.ndarray, ways: int, c: float = _C) -> np.ndarray:
    """Classes [E, M] of queries by logistic regression on the support, for all episodes at once.

    Minimises what scikit-learn's `LogisticRegression(C=c)` does, with its unpenalised intercept. The weights are
    combinations of the support's features, so that only inner products are needed; features of length at most one
    bound the curvature, and with it accelerated gradient descent has a known rate: the iterations below leave
    e^-20 of the error.

    Args:
      support: [E, ways * shots, D], class by class, rows of length at most 1.
      query: [E, M, D].
      ways: number of classes.
      c: inverse strength of the penalty.
    """
    episodes, n, _ = support.shape
    wide = support.astype(np.float64)
    kernel = wide @ wide.swapaxes(1, 2)
    targets = np.repeat(np.eye(ways), n // ways, axis=0)  # [n, ways]
    penalty = 1 / (n * c)  # the mean loss plus penalty / 2 times the squared weights
    step = 1 / (1 + penalty)  # softmax: half the largest eigenvalue of the mean of (x, 1) (x, 1)^T, at most 1
    root = np.sqrt(step * penalty)
    momentum = (1 - root) / (1 + root)
    a = past_a = np.zeros((episodes, n, ways))  # weights are support^T a
    b = past_b = np.zeros((episodes, 1, ways))
    for _ in range(int(np.ceil(20 / root))):
        ahead_a, ahead_b = a + momentum * (a - past_a), b + momentum * (b - past_b)
        error = (_softmax(kernel @ ahead_a + ahead_b) - targets) / n
        past_a, past_b = a, b
        a = ahead_a - step * (error + penalty * ahead_a)
        b = ahead_b - step * error.sum(1, keepdims=True)
    return ((query @ support.swapaxes(1, 2)) @ a + b).argmax(-1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _summary(scores: dict[str, list[np.ndarray]]) -> dict[str, tuple[float, float]]:
    summary = {}
    for name, parts in scores.items():
        accuracies = np.concatenate(parts)
        summary[name] = float(accuracies.mean()), float(1.96 * accuracies.std() / np.sqrt(len(accuracies)))
    return summary
