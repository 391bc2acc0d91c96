"""Health of a representation, measured without labels: spread, rank, alignment and uniformity.

Everything is NumPy in float64: these are read now and then, outside the training step.
"""

import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.errors import UserError

# Below these the representation is called collapsed. Healthy features of d channels have a spread near
# 1/sqrt(d) (SimSiam, section 4.1); a rank of one is a single direction.
_COLLAPSED_STD = 0.1
_COLLAPSED_RANK = 1.5


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


def summary(features: ArrayLike) -> dict[str, float]:
    """Returns what `diagnose` needs to know of a batch of features.

    Args:
      features: [N, D] features.

    Returns:
      `feature_std`, `feature_std_healthy` (1/sqrt(D), what to compare it with) and `rankme`.

    Raises:
      UserError: features are not a non-empty, finite matrix.
    """
    features = _matrix(features)
    return {
        "feature_std": feature_std(features),
        "feature_std_healthy": 1 / float(np.sqrt(features.shape[1])),
        "rankme": rankme(features),
    }


def diagnose(summary: dict[str, float]) -> str | None:
    """Says in words that a representation has collapsed, and what usually causes that.

    Meant for the embeddings that the loss acts on. Backbone features after a ReLU share a large mean, which
    lowers their spread: an untrained ResNet-18 in evaluation mode has about a tenth of 1/sqrt(D), so on such
    features this may speak too early at the start of training.

    Args:
      summary: what `summary` returned. Two or more images and two or more channels are assumed: fewer are
        one direction by construction.

    Returns:
      Sentences for a log or terminal, or None if nothing is wrong.
    """
    std, healthy, rank = summary["feature_std"], summary["feature_std_healthy"], summary["rankme"]
    if std < _COLLAPSED_STD * healthy:
        found = f"their spread is {std:.2g}, where {healthy:.2g} is healthy (effective rank {rank:.1f})"
    elif rank < _COLLAPSED_RANK:
        found = f"their effective rank is {rank:.2f}, a single direction (spread {std:.2g} of {healthy:.2g})"
    else:
        return None
    return (
        f"The representation has collapsed: all images have nearly the same features; {found}. "
        "Usual causes, in the order to check: the target branch is not behind a stop-gradient; the predictor "
        "is bypassed; the target network copies the online one at once (momentum 0); batch norm runs in "
        "evaluation mode while training; the images or the inputs of the loss are constant (dead ReLUs); for "
        "DINO, the centre is not updated or the teacher's temperature is above the student's."
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
