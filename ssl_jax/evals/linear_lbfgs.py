"""Linear evaluation: the linear probe by L-BFGS."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import logistic
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "linear probe by L-BFGS", LABELLED, True, False


def measure(context: Context) -> list[Result]:
    """Accuracy of each backbone, and what was chosen on the way."""
    return context.each("linear_lbfgs", lambda *sets: logistic.probe(*sets, **context.common), main=("top1",))
