"""Linear evaluation: the linear probe by SGD.

On pixels a linear classifier is in the few-label table, under all labels.
"""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import linear
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "linear probe", LABELLED, True, True


def measure(context: Context) -> list[Result]:
    """Accuracy of each backbone, and what was chosen on the way."""
    options = context.common | {
        "epochs": context.config.eval.linear_epochs,
        "batch_size": context.config.eval.linear_batch,
    }
    return context.each("linear", lambda *sets: linear.probe(*sets, **options), main=("top1",))
