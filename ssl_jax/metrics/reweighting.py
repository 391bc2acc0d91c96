"""Domain adaptation by weighing the source, and by a few labels of the target, on fixed features."""

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from ssl_jax.metrics.transport import squared_distances


def density_ratio(source: np.ndarray, target: np.ndarray, most: float = 10.0) -> np.ndarray:
    """Weights [n] of the source's rows, about p_target / p_source, from a classifier of the domains.

    Odds of logistic regression, clipped at `most` and divided by their mean.
    """
    x = np.concatenate([source, target])
    domain = np.repeat([0, 1], [len(source), len(target)])
    model = LogisticRegression(max_iter=1000).fit(x, domain)
    odds = np.exp(np.minimum(model.decision_function(source), np.log(most) + 50))
    weights = np.minimum(odds * len(source) / len(target), most)
    return weights / weights.mean()


def mean_matching(source: np.ndarray, target: np.ndarray, most: float = 10.0) -> np.ndarray:
    """Weights [n] of the source's rows by kernel mean matching (Huang et al. 2006).

    The weighted mean of the source in the space of a Gaussian kernel comes as near to that of the target as weights
    from 0 to `most` allow whose mean is 1 up to most / sqrt(n). The kernel is exp(-d^2 / m), with m the median squared
    distance of different rows of both domains.
    """
    x, n = np.concatenate([source, target]), len(source)
    distances = squared_distances(x, x)
    scale = np.median(distances[np.triu_indices(len(x), 1)])
    kernel = np.exp(-distances / max(scale, 1e-12))
    return matching_weights(kernel[:n, :n], n * kernel[:n, n:].mean(1), most, most / np.sqrt(n))


def matching_weights(kernel: np.ndarray, wanted: np.ndarray, most: float, slack: float) -> np.ndarray:
    """The b that minimises b K b / 2 - k b for 0 <= b <= most and |sum b - n| <= n slack.

    An interior-point method with Mehrotra's predictor and corrector; each step solves two systems in n unknowns.

    Args:
      kernel: K [n, n], positive semi-definite.
      wanted: k [n].
      most: at least 1.
      slack: at least 0.

    Returns:
      [n].

    Raises:
      LinAlgError: K is not positive semi-definite, so that there is no end.
    """
    n = len(wanted)
    bounds = np.concatenate([np.full(n, most), np.zeros(n), [n * (1 + slack), n * (slack - 1)]])

    def rows(b, total):  # of the constraints rows(b, b.sum()) <= bounds
        return np.concatenate([b, -b, [total, -total]])

    def columns(z):
        return z[:n] - z[n : 2 * n] + z[-2] - z[-1]

    def longest(x, step):
        shrinks = step < 0
        return min(1.0, 0.995 * float(np.min(-x[shrinks] / step[shrinks], initial=np.inf)))

    b, scale = np.full(n, min(1.0, most / 2)), 1 + np.abs(wanted).max()
    room, price = np.maximum(bounds - rows(b, b.sum()), 1), np.full(2 * n + 2, scale)
    system = np.ones((n + 1, n + 1))
    for _ in range(100):
        dual, primal = kernel @ b - wanted + columns(price), rows(b, b.sum()) + room - bounds
        primal[np.abs(primal) < 1e-12 * bounds.max()] = 0  # rounding, which is not small beside a small room
        gap = room @ price / len(room)
        if max(np.abs(dual).max(), np.abs(primal).max() / n, gap) < 1e-10 * scale:
            return np.clip(b, 0, most)
        d = price / room
        # The price of the sum is an unknown of its own, from which the change of the sum follows: added up, that would
        # be lost in rounding, and so would the kernel beside the square that the sum would add to it. Rows and columns
        # are scaled, for they differ by all that separates a row at its bound from one that is free.
        system[:n, :n] = kernel + np.diag(d[:n] + d[n : 2 * n])
        both = d[-2] + d[-1]
        scales = np.append(1 / np.sqrt(np.diag(system)[:n]), np.sqrt(both))
        system[n, n] = -1 / both
        factor = lu_factor(system * scales * scales[:, None])

        def step(product):
            right = np.append(-dual - columns((price * primal - product) / room), 0.0)  # noqa: B023
            found = scales * lu_solve(factor, scales * right)  # noqa: B023
            change = rows(found[:n], found[n] / both)  # noqa: B023
            return found[:n], -primal - change, (price * (primal + change) - product) / room  # noqa: B023

        _, ahead, dearer = step(room * price)
        reach = min(longest(room, ahead), longest(price, dearer))
        centred = gap * ((room + reach * ahead) @ (price + reach * dearer) / len(room) / gap) ** 3
        move, wider, dearer = step(room * price + ahead * dearer - centred)
        reach = min(longest(room, wider), longest(price, dearer))
        b, room, price = b + reach * move, room + reach * wider, price + reach * dearer
    raise np.linalg.LinAlgError("The weights are not found in 100 steps: is the kernel positive semi-definite?")


def tradaboost_rate(sources: int, rounds: int) -> float:
    """Beta of the source, 1 / (1 + sqrt(2 ln(n) / N)) (Dai et al. 2007)."""
    return float(1 / (1 + np.sqrt(2 * np.log(sources) / rounds)))


def tradaboost_weights(weights: np.ndarray, wrong: np.ndarray, sources: int, rounds: int) -> tuple[np.ndarray, float]:
    """One round's change of the weights: wrong rows of the source lose, wrong ones of the target gain.

    Args:
      weights: of the rows [n + m], the source first.
      wrong: which of them the round's classifier gets wrong.
      sources: n.
      rounds: N, of the whole run.

    Returns:
      the weights, not normalised, and beta_t = error / (1 - error) of the target alone; the error is at most 1/2.
    """
    own = weights[sources:]
    error = float(np.clip(own[wrong[sources:]].sum() / own.sum(), 1e-10, 0.5))
    beta = error / (1 - error)
    rate = np.concatenate([np.full(sources, tradaboost_rate(sources, rounds)), np.full(len(own), 1 / beta)])
    return weights * np.where(wrong, rate, 1), beta


def tradaboost(
    source: np.ndarray,
    labels: np.ndarray,
    few: np.ndarray,
    few_labels: np.ndarray,
    target: np.ndarray,
    rounds: int = 10,
) -> np.ndarray:
    """TrAdaBoost with linear SVMs, as its authors have them; classes [k] of the target's rows [k, D].

    The vote is that of the second half of the rounds, weighted by ln(1 / beta_t). With more than two classes a row
    counts as wrong if its class is.

    Args:
      source: rows [n, D].
      labels: of the source [n].
      few: labelled rows of the target [m, D].
      few_labels: their labels [m].
      target: rows to classify.
      rounds: N.
    """
    x, y = np.concatenate([source, few]), np.concatenate([labels, few_labels])
    scale, classes = np.sqrt(x.shape[1]), np.unique(y)
    votes = np.zeros((len(target), len(classes)))
    weights = np.concatenate([np.full(len(source), 1 / len(source)), np.full(len(few), 1 / len(few))])
    for number in range(rounds):
        weights = weights / weights.sum()
        model = SVC(kernel="linear").fit(x / scale, y, sample_weight=weights * len(x))
        weights, beta = tradaboost_weights(weights, model.predict(x / scale) != y, len(source), rounds)
        if number >= rounds // 2:
            votes += np.log(1 / beta) * (model.predict(target / scale)[:, None] == classes)
    return classes[votes.argmax(1)]


def adaptive_svm(
    scores: np.ndarray, few: np.ndarray, signs: np.ndarray, cost: float = 1.0, sweeps: int = 1000
) -> np.ndarray:
    """What an adaptive SVM adds to a classifier of the source: w [D] of f(x) = f_s(x) + w x (Yang et al. 2007).

    Minimises |w|^2 / 2 + cost * sum_i max(0, 1 - y_i f(x_i)): a linear SVM whose row i has the margin
    1 - y_i f_s(x_i). Solved in the dual, a coordinate at a time.

    Args:
      scores: f_s of the rows [m].
      few: labelled rows of the target [m, D].
      signs: their labels, -1 or 1 [m].
      cost: C.
      sweeps: at most, over all rows.
    """
    margins, squares = 1 - signs * scores, np.maximum((few**2).sum(1), 1e-12)
    alpha, w = np.zeros(len(few)), np.zeros(few.shape[1])
    for _ in range(sweeps):
        most = 0.0
        for i in range(len(few)):
            moved = np.clip(alpha[i] + (margins[i] - signs[i] * (few[i] @ w)) / squares[i], 0, cost)
            most = max(most, abs(moved - alpha[i]))
            w += (moved - alpha[i]) * signs[i] * few[i]
            alpha[i] = moved
        if most < 1e-9 * cost:
            break
    return w
