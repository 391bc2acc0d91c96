"""What a compiled program does: collectives, traffic with main memory, products in its loops, waits for its host."""

from collections.abc import Iterator
import math
import re

from ssl_jax.plan.program import CONTROL, Computation, Instruction, numbers, parse, sides, trips

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FUSED = "all-reduce-scatter"  # computation of a fusion that is a reduce-scatter, written as an all-reduce and a slice


def collectives(hlo: str) -> dict[str, tuple[int, float]]:
    """Counts the collectives that a compiled program runs, those of a loop as often as it turns.

    Args:
      hlo: its text.

    Returns:
      kind to (how many, bytes of their results on one chip).
    """
    computations, entry = parse(hlo)
    times = _times(computations, entry, loops=True)
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for name, computation in computations.items():
        for x in computation.values():
            if x.kind not in _COLLECTIVES or x.free:
                continue
            kind, results = x.kind, x.results
            if name.startswith(_FUSED):
                kind, results = "reduce-scatter", next(y for y in computation.values() if y.root).results
            # The TPU compiler repeats one in each of the fusions it is overlapped with; they form a chain.
            chain = re.search(r'chain_id="(\d+)"', x.rest)
            size = sum(array.size for array in results)
            found.setdefault(kind, {})[chain[0] if chain else x.name] = times.get(name, 1), size
    return {
        kind: (sum(n for n, _ in each.values()), sum(n * size for n, size in each.values()))
        for kind, each in sorted(found.items())
    }


def loop_flops(hlo: str) -> float:
    """Floating-point operations of products of matrices in the turns of loops after the first.

    The compiler's own figure has every loop once; this is what it lacks, but for operations that are no products.

    Args:
      hlo: the program's text.
    """
    computations, entry = parse(hlo)
    once, times = (_times(computations, entry, loops=loops) for loops in (False, True))
    return sum(
        (times[name] - once[name]) * sum(_product(x, computations[name]) for x in computations[name].values())
        for name in times
        if times[name] > once[name]
    )


def _times(computations: dict[str, Computation], entry: str, *, loops: bool) -> dict[str, int]:
    """How often each computation runs, all branches; with `loops` a loop's as often as it turns, else once."""
    found: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        found[name] = found.get(name, 0) + times
        for x in computations[name].values():
            turns = trips(x, computations) if loops and x.op == "while" else 1
            for called in x.called:
                if called in computations:
                    visit(called, times * turns)

    if entry in computations:
        visit(entry, 1)
    return found


def _product(x: Instruction, body: Computation) -> float:
    """Floating-point operations of a product of matrices or a convolution; XLA's count of one that runs once."""
    if x.kind == "convolution":
        return _convolution(x, body)
    contracted = re.search(r'lhs_contracting_(?:dims=\{|dimensions":\[)([\d,"]*)', x.rest)
    if not contracted or not (x.kind == "dot" or x.target.startswith("__cublas")):
        return 0.0
    whole = sides(body[x.operands[0]].shape)
    result = x.shape if x.kind == "dot" else x.shape.strip("(")
    return 2 * math.prod(sides(result)) * math.prod(whole[i] for i in numbers(contracted[1].replace('"', "")))


def _convolution(x: Instruction, body: Computation) -> float:
    """Of a convolution: what meets padding is not counted, nor what lies in the holes of a dilated image.

    A TPU's products of batches of matrices are such convolutions, whose padding is most of what is passed over.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.rest)
    if not labels:
        return 0.0
    image, kernel, result = (
        dict(zip(names, sides(shape), strict=True))
        for names, shape in zip(labels.groups(), (*(body[name].shape for name in x.operands[:2]), x.shape), strict=True)
    )
    groups = re.search(r"feature_group_count=(\d+)", x.rest)
    batches = re.search(r"batch_group_count=(\d+)", x.rest)
    count = 2.0 * image["b"] * image["f"] * result["f"] / (int(groups[1]) if groups else 1)
    count /= int(batches[1]) if batches else 1
    window = re.search(r"window=\{([^}]*)\}", x.rest)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    for axis in sorted(image.keys() - {"b", "f"}):
        place = int(axis)
        stride, dilated, spread = (
            int(fields[name].split("x")[place]) if name in fields else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(fields["pad"].split("x")[place].split("_")[0]) if "pad" in fields else 0
        length = (image[axis] - 1) * dilated + 1
        count *= sum(
            0 <= (at := out * stride - before + tap * spread) < length and at % dilated == 0
            for out in range(result[axis])
            for tap in range(kernel[axis])
        )
    return count


def host_waits(hlo: str) -> list[str]:
    """Where a GPU that runs a compiled program waits for its host, of which a training step should have none.

    Returns:
      names of loops whose number of turns is not known beforehand, of branches that are taken by a value on the
      device, of copies from or to the host's memory, and of calls into Python.
    """
    computations, entry = parse(hlo)
    return [x.name for x, body in _run(computations, entry) if _waits(x, body)]


def kernels(hlo: str) -> int:
    """How many instructions of a compiled program a GPU starts, those of a loop counted once, those of all branches."""
    computations, entry = parse(hlo)
    return sum(not x.free and x.op not in CONTROL for x, _ in _run(computations, entry))


def _run(computations: dict[str, Computation], name: str) -> Iterator[tuple[Instruction, Computation]]:
    """The instructions of a computation and of those that it calls, without those inside fusions."""
    body = computations[name]
    for x in body.values():
        yield x, body
        if x.op in CONTROL:
            for called in x.called:
                yield from _run(computations, called)


def _waits(x: Instruction, body: Computation) -> bool:
    if x.free:
        return False
    if x.op == "while":
        return "known_trip_count" not in x.rest
    if x.kind in ("send", "recv"):
        return "is_host_transfer=true" in x.rest
    touched = x.shape + "".join(body[name].shape for name in x.operands if x.kind == "copy" and name in body)
    return x.op in ("conditional", "infeed", "outfeed") or "S(5)" in touched or "callback" in x.target
