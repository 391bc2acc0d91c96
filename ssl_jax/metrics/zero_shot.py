"""Zero-shot classification of frozen features: classes that no image was seen of, known by their attributes alone."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from ssl_jax.metrics.subspaces import standardised, unit_rows
from ssl_jax.runtime.errors import UserError


def attribute_probabilities(train_x: np.ndarray, wanted: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """Probability [M, A] of each binary attribute of the test rows, by logistic regression on the training rows.

    Args:
      train_x: [N, D], standardised.
      wanted: whether each training row's class has the attribute [N, A].
      test_x: [M, D].
    """
    found = np.empty((len(test_x), wanted.shape[1]))
    for column, has in enumerate(wanted.T):
        if has.all() or not has.any():
            found[:, column] = float(has[0])  # all classes that were seen have it, or none has
        else:
            model = LogisticRegression(max_iter=1000).fit(train_x, has)
            found[:, column] = model.predict_proba(test_x)[:, 1]
    return found


def direct_attribute_prediction(
    probabilities: np.ndarray, classes: np.ndarray, prior: np.ndarray, least: float = 1e-3
) -> np.ndarray:
    """DAP (Lampert et al. 2014, eq. 2): scores [M, C], the log of prod_a p(a_c | x) / p(a_c).

    Args:
      probabilities: of each attribute [M, A].
      classes: which attributes each new class has [C, A].
      prior: share of the classes that were seen which have the attribute [A].
      least: probabilities are kept this far from 0 and 1.
    """
    p, q = np.clip(probabilities, least, 1 - least), np.clip(prior, least, 1 - least)
    has = classes.astype(float)
    return (np.log(p) - np.log(q)) @ has.T + (np.log1p(-p) - np.log1p(-q)) @ (1 - has).T


def linear_map(
    train_x: np.ndarray, embeddings: np.ndarray, test_x: np.ndarray, classes: np.ndarray, penalty: float = 1.0
) -> np.ndarray:
    """Scores [M, C] by ridge regression to the embedding of a row's class: the cosine with that of each new class.

    Args:
      train_x: [N, D], standardised.
      embeddings: of the classes of the training rows [N, A].
      test_x: [M, D].
      classes: embeddings of the new classes [C, A].
      penalty: of the squared weights, times the number of rows over that of features.
    """
    centre = embeddings.mean(0)
    width = train_x.shape[1]
    gram = train_x.T @ train_x + penalty * len(train_x) / width * np.eye(width)
    weights = np.linalg.solve(gram, train_x.T @ (embeddings - centre))
    return unit_rows(test_x @ weights) @ unit_rows(classes - centre).T


def zero_shot(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    attributes: np.ndarray,
    unseen: np.ndarray,
) -> dict[str, float]:
    """Accuracy on test rows of classes that are left out of training, among those classes.

    Args:
      train_x: [N, D]; rows of the unseen classes are dropped.
      train_y: [N].
      test_x: [M, D]; rows of the seen classes are dropped.
      test_y: [M].
      attributes: of all classes [K, A]; for DAP one counts as there where it is above its mean over the classes.
      unseen: numbers of the unseen classes.

    Returns:
      shares: 'dap' and 'linear_map'.

    Raises:
      UserError: fewer than two classes are seen or unseen, or there is no row of either.
    """
    kept, asked = ~np.isin(train_y, unseen) & (train_y >= 0), np.isin(test_y, unseen)
    if len(unseen) < 2 or len(np.unique(train_y[kept])) < 2 or not asked.any():
        raise UserError(
            f"Zero-shot classification has {len(unseen)} unseen classes and {len(np.unique(train_y[kept]))} seen ones: "
            "it needs two of each, and test images of the unseen ones."
        )
    mean, std = train_x[kept].mean(0), train_x[kept].std(0)
    scaled = [(np.asarray(x, np.float64) - mean) / np.where(std == 0, 1, std) for x in (train_x[kept], test_x[asked])]
    binary = attributes > attributes.mean(0)
    seen = np.unique(train_y[kept])
    probabilities = attribute_probabilities(scaled[0], binary[train_y[kept]], scaled[1])
    scores = {
        "dap": direct_attribute_prediction(probabilities, binary[unseen], binary[seen].mean(0)),
        "linear_map": linear_map(
            scaled[0], standardised(attributes)[train_y[kept]], scaled[1], standardised(attributes)[unseen]
        ),
    }
    return {name: float(np.mean(unseen[x.argmax(1)] == test_y[asked])) for name, x in scores.items()}
