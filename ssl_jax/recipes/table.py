"""Lists presets, with what was published of them."""

from ssl_jax import recipes
from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.layer import MEASURES, Expected

HEAD = ("preset", "source", "expected")


def rows(method: str) -> list[tuple[str, str, str]]:
    """Name, source and expected result of each preset of a method."""
    published = recipes.published(method)
    found = []
    for preset in recipes.presets(method):
        if preset in published:
            recipe = published[preset]
            found.append((preset, recipe.source, "; ".join(_result(result) for result in recipe.expected)))
        else:
            found.append((preset, "", ""))
    return found


def _result(result: Expected) -> str:
    return f"{result.measure} {100 * result.value:.4g} %" + (f" ({result.note})" if result.note else "")


def text(methods: list[str]) -> str:
    """All presets of methods, as Markdown."""
    parts = []
    for method in methods:
        lines = [HEAD, tuple("-" * len(name) for name in HEAD), *rows(method)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
        padded = [" | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        parts.append(f"## {method}\n\n" + "\n".join(f"| {line} |" for line in padded))
    return "\n\n".join([*parts, _legend()])


def _legend() -> str:
    measures = "\n".join(f"- {name}: {words}" for name, words in MEASURES.items())
    cards = "\n".join(f"- {name}: {card.about}" for name, card in CARDS.items())
    return (
        "A preset without a source is this package's own: nobody published the method's settings for that data set.\n\n"
        f"Data sets\n\n{cards}\n\nResults\n\n{measures}"
    )
