"""The few-label table: logistic regression on a few labelled images of each class, and on all."""

from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.metrics import few_label
from ssl_jax.workdir.results import Result

TITLE, NEEDS, DEFAULT, LARGE = "", LABELLED, True, True


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
    table = few_label.few_label(representations, *f.labels, draws=context.config.eval.draws, seed=context.config.seed)
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
