"""Which benchmarks there are and what each answers: `python -m benchmarks`."""

import ast
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent
HELPERS = ("__main__", "record")


def answers() -> dict[str, str]:
    """Name of each benchmark to the first sentence of its docstring, which says what it answers."""
    found = {}
    for file in sorted(FOLDER.glob("*.py")):
        if file.stem not in HELPERS:
            words = ast.get_docstring(ast.parse(file.read_text())) or ""
            found[file.stem] = words.partition("\n")[0]
    return found


def main() -> None:
    """Prints a line a benchmark."""
    told = answers()
    width = max(map(len, told))
    for name, answer in told.items():
        print(f"{name:<{width}}  {answer}")
    print("\npython benchmarks/NAME.py --help says how. Records are kept in docs/*.jsonl.")


if __name__ == "__main__":
    main()
