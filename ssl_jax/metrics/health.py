"""Health of a representation, measured without labels: spread, rank, dead units, alignment and uniformity.

Everything is NumPy in float64: these are read now and then, outside the training step.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime.errors import UserError

# Below these the representation is called collapsed. Healthy features of d channels have a spread near
# 1/sqrt(d) (SimSiam, section 4.1); a rank of one is a single direction.
_COLLAPSED_STD = 0.1
_COLLAPSED_RANK = 1.5
_DEAD = 0.5  # share of dead units that is worth a word
# A loss within this share of the way from chance to best has learnt next to nothing.
_AT_CHANCE = 0.02
_PAIRS = 2000  # features whose pairs the uniformity of `summary` is about: it is quadratic in them


def feature_std(z: ArrayLike) -> float:
    """Mean over channels of the standard deviation over the batch of the L2-normalised features.

    Near 1/sqrt(D) for directions spread over the sphere, 0 when all features point the same way (Chen and He
    2021, SimSiam, section 4.1). The standard deviation is the population's.

    Args:
      z: [N, D] features.

    Returns:
      The spread, in [0, 1/sqrt(D)].

    Raises:
      UserError: z is not a non-empty, finite matrix.
    """
    return float(_unit(_matrix(z)).std(axis=0).mean())


def rankme(z: ArrayLike) -> float:
    """Effective rank: exp of the entropy of the normalised singular values (Garrido et al. 2023, RankMe).

    The features are neither centred nor normalised. Compare values only at equal N and D.

    Args:
      z: [N, D] features.

    Returns:
      The effective rank, from 1 to min(N, D) up to the paper's 1e-7 inside the logarithm. Features that are
      all zero have rank 1.

    Raises:
      UserError: z is not a non-empty, finite matrix.
    """
    singular = np.linalg.svd(_matrix(z), compute_uv=False)
    if singular[0] == 0:
        return 1.0
    p = singular / singular.sum() + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def alignment(x: ArrayLike, y: ArrayLike, alpha: float = 2) -> float:
    """Mean distance of positive pairs on the unit sphere, to the power alpha (Wang and Isola 2020, sec. 4).

    Args:
      x: [N, D] features of one view; normalised here.
      y: [N, D] features of another view of the same images, in the same order.
      alpha: exponent.

    Returns:
      The alignment; 0 is perfect, and 2 what unrelated directions have at alpha 2.

    Raises:
      UserError: x or y is not a non-empty, finite matrix, or their shapes differ.
    """
    x, y = _matrix(x), _matrix(y)
    if x.shape != y.shape:
        raise UserError(
            f"Alignment compares pairs, but got features of shapes {x.shape} and {y.shape}; give "
            "two views of the same images."
        )
    return float(np.mean(np.linalg.norm(_unit(x) - _unit(y), axis=1) ** alpha))


def uniformity(x: ArrayLike, t: float = 2) -> float:
    """Log of the mean Gaussian potential over distinct pairs on the sphere (Wang and Isola 2020, section 4).

    Memory is N^2 floats; a few thousand features are enough.

    Args:
      x: [N, D] features, N at least 2; normalised here.
      t: scale of the potential exp(-t * squared distance).

    Returns:
      The uniformity; 0 for a total collapse, near -2t for features spread over a sphere of many dimensions.

    Raises:
      UserError: x is not a finite matrix of at least two rows.
    """
    x = _unit(_matrix(x))
    if len(x) < 2:
        raise UserError("Uniformity is about pairs, but got a single feature; give at least two images.")
    # For unit vectors the squared distance is 2 - 2 cos; the subtraction may leave a rounding below zero.
    distance = np.maximum(2 - 2 * (x @ x.T)[np.triu_indices(len(x), k=1)], 0)
    return float(np.log(np.mean(np.exp(-t * distance))))


def dead_units(z: ArrayLike) -> float:
    """Share of channels [N, D] that are the same for all images, but for rounding (a ReLU that never opens).

    Raises:
      UserError: z is not a non-empty, finite matrix.
    """
    std = _matrix(z).std(axis=0)
    return float(np.mean(std <= 1e-6 * max(float(np.max(std)), 1e-30)))


def lidar(z: ArrayLike, delta: float = 1e-4) -> float:
    """Rank of what tells images apart, over what tells views of one image apart (Thilak et al. 2023, LiDAR).

    exp of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2, where Sb is the covariance of the images' means and
    Sw the mean covariance of the views of an image plus delta. The paper has 1,000 images in 50 views each; compare
    values only at equal numbers.

    Args:
      z: [N, Q, D] features of Q views of N images.
      delta: added to the diagonal of Sw.

    Returns:
      The effective rank, from 1 to min(N - 1, D) up to the 1e-7 inside the logarithm.

    Raises:
      UserError: z is not finite, or has fewer than two images or views.
    """
    z = np.asarray(z, np.float64)
    if z.ndim != 3 or min(z.shape[:2]) < 2 or not np.isfinite(z).all():
        raise UserError(f"LiDAR needs finite features [N, Q, D] of two or more views and images, not {z.shape}.")
    images, views, channels = z.shape
    means = z.mean(1)
    centred = means - means.mean(0)
    between = centred.T @ centred / (images - 1)
    within = (z - means[:, None]).reshape(-1, channels)
    within = within.T @ within / (images * (views - 1)) + delta * np.eye(channels)
    values, vectors = np.linalg.eigh(within)
    root = vectors / np.sqrt(values)
    eigenvalues = np.maximum(np.linalg.eigvalsh(root.T @ between @ root), 0)
    if eigenvalues.sum() == 0:
        return 1.0
    p = eigenvalues / eigenvalues.sum() + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def summary(features: ArrayLike) -> dict[str, float]:
    """Returns what can be said of a batch of features alone, in a second or two for 10,000 of 512 channels.

    Args:
      features: [N, D] features.

    Returns:
      `feature_std`, `feature_std_healthy` (1/sqrt(D), what to compare it with), `rankme`, `health/dead_units`, and
      with two features or more `health/uniformity` (of at most 2,000 of them, evenly spaced).

    Raises:
      UserError: features are not a non-empty, finite matrix.
    """
    features = _matrix(features)
    values = {
        "feature_std": feature_std(features),
        "feature_std_healthy": 1 / float(np.sqrt(features.shape[1])),
        "rankme": rankme(features),
        "health/dead_units": dead_units(features),
    }
    if len(features) > 1:
        values["health/uniformity"] = uniformity(evenly_spaced(features, _PAIRS))
    return values


def diagnose(values: Mapping[str, float]) -> str | None:
    """Says in words what is wrong with a representation or its training, and what usually causes that.

    Meant for the embeddings that the loss acts on. Backbone features after a ReLU share a large mean, which
    lowers their spread: an untrained ResNet-18 in evaluation mode has about a tenth of 1/sqrt(D), so on such
    features this may speak too early at the start of training.

    Args:
      values: what `summary` returned. Two or more images and two or more channels are assumed: fewer are one
        direction by construction. Where known also `loss` with `chance` and `best` (the losses of an answer by chance
        and of a perfect one), and `knn/top1` with `knn/top1_untrained`.

    Returns:
      Sentences for a log or terminal, or None if nothing is wrong.
    """
    found = [check(values) for check in (_collapse, _dead, _chance, _no_better)]
    return " ".join(words for words in found if words) or None


def _collapse(values: Mapping[str, float]) -> str:
    std, healthy, rank = values["feature_std"], values["feature_std_healthy"], values["rankme"]
    if std < _COLLAPSED_STD * healthy:
        found = f"their spread is {std:.2g}, where {healthy:.2g} is healthy (effective rank {rank:.1f})"
    elif rank < _COLLAPSED_RANK:
        found = f"their effective rank is {rank:.2f}, a single direction (spread {std:.2g} of {healthy:.2g})"
    else:
        return ""
    return (
        f"The representation has collapsed: all images have nearly the same features; {found}. "
        "Usual causes, in the order to check: the target branch is not behind a stop-gradient; the predictor "
        "is bypassed; the target network copies the online one at once (momentum 0); batch norm runs in "
        "evaluation mode while training; the images or the inputs of the loss are constant (dead ReLUs); for "
        "DINO, the centre is not updated or the teacher's temperature is above the student's."
    )


def _dead(values: Mapping[str, float]) -> str:
    share = values.get("health/dead_units", 0.0)
    if share <= _DEAD:
        return ""
    return (
        f"{100 * share:.0f} % of the features are the same for every image. Usual causes: a learning rate so high that "
        "ReLUs closed for good; weight decay that took layers to zero; images that are constant, or normalised twice."
    )


def _chance(values: Mapping[str, float]) -> str:
    if "loss" not in values:
        return ""
    loss, chance, best = (values[name] for name in ("loss", "chance", "best"))
    if loss < chance - _AT_CHANCE * (chance - best):
        return ""
    return (
        f"The loss is {loss:.3f}, no better than chance ({chance:.3f}; perfect is "
        f"{best:.3f}). Usual causes, in the order to check: the learning rate is zero or far too high (a warm-up that "
        "is longer than the run); embeddings are zero or not normalised, or the temperature is too large; positives "
        "are misaligned after a gather or shuffle; batch norm runs in evaluation mode; or training has just begun."
    )


def _no_better(values: Mapping[str, float]) -> str:
    names = ("knn/top1", "knn/top1_untrained")
    if not all(name in values for name in names) or values[names[0]] > values[names[1]]:
        return ""
    top1, untrained = (100 * values[name] for name in names)
    return (
        f"The features are no better than those of the untrained backbone (kNN {top1:.1f} and {untrained:.1f} %). Most "
        "often training was too short: train for more epochs. If the loss has fallen far all the same, the task may be "
        "solved by a shortcut: identical views, statistics of a batch "
        "that give the positive away (shuffled or synchronised batch norm is missing), or, for patches and rotations, "
        "borders, interpolation and colour fringes."
    )


def _matrix(z: ArrayLike) -> np.ndarray:
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or not z.size:
        raise UserError(f"Features must be a non-empty [N, D] matrix, but have shape {z.shape}; flatten them.")
    if not np.isfinite(z).all():
        raise UserError("Features contain NaN or infinity; look at the model that extracted them.")
    return z


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
