"""The few-label table: logistic regression on a few labelled images of each class, and on all."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import few_label
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "", LABELLED, True, True
OPTIONS = {"few_labels": "1,5,10"}  # labelled images of each class; all of them are measured too


def measure(context: Context) -> list[Result]:
    """Accuracy of pixels, their principal components and each backbone; prints the table."""
    f = context.features
    representations = {}
    if f.pixels is not None:
        # Half as many components as tiny images have pixels: all of them would be the pixels again.
        pca = few_label.pca(*f.pixels, components=min(64, f.pixels[0].shape[1] // 2))
        representations = {"pixels": f.pixels, "pca": pca}
    representations |= {"untrained": f.untrained, "pretrained": f.pretrained}
    if f.supervised is not None:
        representations["supervised"] = f.supervised
    options = {"draws": context.config.eval.draws, "seed": context.config.seed}
    counts = [*_counts(context.config.eval.few_labels), None]
    table = few_label.few_label(representations, *f.labels, counts=counts, **options)
    print(few_label.table(table))
    found, images = [], {}
    for count, row in table.items():
        if "skipped" in row:
            found.append(Result(f"few_label/{count}/skipped", row["skipped"], detail=True))
            continue
        images[count] = row["pretrained"]["images"]  # the same for all representations
        found += [
            Result(f"few_label/{count}", cell["mean"], of, spread=cell["std"], key=f"few_label/{count}/{of}")
            for of, cell in row.items()
        ]
    return [*found, Result("few_label/images", images, detail=True)]


def _counts(text: str) -> list[int]:
    """Numbers of labelled images a class."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UserError(f"config.eval.few_labels is '{text}': write numbers with commas between, such as 1,5,10.")
    return sorted({int(part) for part in text.split(",")})
