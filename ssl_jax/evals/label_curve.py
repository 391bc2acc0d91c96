"""Accuracy at 1 to 100 % of the labels, as far as the shares are of not too many images."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import label_curve
from ssl_jax.runtime import progress
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "% of the labels", LABELLED, True, True


def measure(context: Context) -> list[Result]:
    """Accuracy of each representation, pixels included, and the numbers of images."""
    labels = context.features.labels
    images = {str(percent): count for percent, count in label_curve.sizes(labels[0]).items()}
    if left := [f"{percent} %" for percent in label_curve.PERCENTS if str(percent) not in images]:
        print(f"label_curve: without {', '.join(left)}, which are more than {label_curve.MAX_IMAGES} images")
    found = [Result("label_curve/images", images, detail=True)]
    features = context.features.with_pixels()
    with progress.counted(len(features) * sum(map(label_curve.draws, map(float, images))), "fits"):
        for of, (x, y) in features.items():
            curve = label_curve.label_curve(x, labels[0], y, labels[1], seed=context.config.seed)
            for percent, (mean, std) in curve.items():
                found.append(Result(f"label_curve/{percent}/top1", mean, of, spread=std))
    return found
