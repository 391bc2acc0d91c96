"""What the text of a compiled program (HLO) says of its traffic: with main memory, other chips and the host."""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"\b(?P<kind>pred|[a-z]+\d+\w*)\[(?P<sides>[\d,]*)\](?P<layout>\{[^}]*\})?")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
    r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<rest>.*)$"
)
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|true_computation|false_computation)="
    r"\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"
)
# Names for what is there already, and ends of copies that are counted where they begin.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")
_CONTROL = ("call", "while", "conditional", "async-start")
_UPDATES = ("dynamic-update-slice", "scatter")  # in place
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_STARTS = tuple(f"{kind}-start" for kind in _COLLECTIVES if kind != "all-reduce")  # return what goes in as well


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    called: tuple[str, ...]  # computations
    rest: str  # the line behind the opening bracket
    root: bool


class Array(NamedTuple):
    """One array of a shape."""

    size: float  # bytes
    main: bool  # in main memory, not in the chip's own


def arrays(shape: str) -> list[Array]:
    """The arrays of an HLO shape such as 'f32[8,128]{1,0:T(8,128)S(1)}' or '(bf16[8], u32[])'; S(n) is their memory."""
    found = []
    for match in _ARRAY.finditer(shape):
        bits = 8 if match["kind"] == "pred" else int("".join(re.findall(r"\d+", match["kind"])[:1]))
        count = math.prod(int(side) for side in match["sides"].split(",") if side)
        found.append(Array(bits / 8 * count, "S(" not in (match["layout"] or "")))
    return found


def collectives(hlo: str) -> dict[str, tuple[int, float]]:
    """Counts the collectives of a compiled program.

    Args:
      hlo: its text.

    Returns:
      kind to (how many, bytes of their results on one chip).
    """
    found: dict[str, dict[str, float]] = {}
    for computation in _parse(hlo)[0].values():
        for instruction in computation.values():
            kind = instruction.op.removesuffix("-start")
            if kind not in _COLLECTIVES:
                continue
            # The TPU compiler repeats a collective in each of the fusions it is overlapped with; they form a chain.
            chain = re.search(r'chain_id="(\d+)"', instruction.rest)
            sizes = [array.size for array in arrays(instruction.shape)]
            size = max(sizes) if instruction.op in _STARTS else sum(sizes)
            found.setdefault(kind, {})[chain[0] if chain else instruction.name] = size
    return {kind: (len(sizes), sum(sizes.values())) for kind, sizes in sorted(found.items())}


def main_memory(hlo: str) -> float:
    """Bytes that a compiled program reads from main memory and writes there.

    The compiler's own 'bytes accessed' also has what passes between arithmetic and the chip's own memory, and a copy
    from one memory to the other as much as four times. Here an operand counts where it lies in main memory, as much of
    it as the instruction needs, and a result where it is put there. A loop counts once, as it does in the compiler's
    figures, and of branches the dearest.

    Args:
      hlo: the program's text.
    """
    computations, entry = _parse(hlo)
    return _Traffic(computations).of(entry)


def host_waits(hlo: str) -> list[str]:
    """Where a GPU that runs a compiled program waits for its host, of which a training step should have none.

    Returns:
      names of loops whose number of turns is not known beforehand, of branches that are taken by a value on the
      device, of copies from or to the host's memory, and of calls into Python.
    """
    computations, entry = _parse(hlo)
    return [x.name for x in _run(computations, entry) if _waits(x)]


def kernels(hlo: str) -> int:
    """How many kernels a GPU starts for one run of a compiled program, those inside a loop counted once."""
    computations, entry = _parse(hlo)
    return sum(x.op not in (*_FREE, *_CONTROL) and not x.op.endswith("-done") for x in _run(computations, entry))


Computation = dict[str, Instruction]


def _run(computations: dict[str, Computation], name: str) -> Iterator[Instruction]:
    """The instructions of a computation and of those that it calls, without those inside fusions."""
    for x in computations[name].values():
        yield x
        if x.op in _CONTROL:
            for called in x.called:
                yield from _run(computations, called)


def _waits(x: Instruction) -> bool:
    if x.op == "while":
        return "known_trip_count" not in x.rest
    called_back = x.op == "custom-call" and "callback" in x.rest
    return x.op in ("conditional", "infeed", "outfeed", "send", "recv") or "S(5)" in x.shape or called_back


def _parse(hlo: str) -> tuple[dict[str, Computation], str]:
    """All computations by name, and the name of the one that is run."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in hlo.splitlines():
        if opened := _COMPUTATION.match(line):
            current = computations.setdefault(opened["name"], {})
            entry = opened["name"] if opened["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            operands = tuple(re.findall(r"%([\w.\-]+)", found["rest"].partition(")")[0]))
            called = tuple(name.strip(" %") for names in _CALLED.findall(found["rest"]) for name in names.split(","))
            fields = (found["name"], found["shape"], found["op"], operands, called, found["rest"], bool(found["root"]))
            current[found["name"]] = Instruction(*fields)
    return computations, entry


class _Traffic:
    """Bytes to and from main memory, computation by computation."""

    def __init__(self, computations: dict[str, Computation]) -> None:
        self.computations = computations

    def of(self, name: str) -> float:
        """What one run of a computation moves."""
        body = self.computations[name]
        return sum(self._moved(x, body) for x in body.values())

    def _moved(self, x: Instruction, body: Computation) -> float:
        if x.op in _FREE or x.op.endswith("-done"):
            return 0.0
        if x.op == "custom-call" and '"ConcatBitcast"' in x.rest:  # of pieces that lie beside each other already
            return 0.0
        if x.op == "conditional":
            return max(map(self.of, x.called))
        if x.op in _CONTROL:
            return sum(map(self.of, x.called))
        return sum(self._read(x, place, body) for place in range(len(x.operands))) + self._written(x, body)

    def _read(self, x: Instruction, place: int, body: Computation) -> float:
        """What an instruction reads of one of its operands in main memory."""
        stored = _main(body[x.operands[place]])
        return min(stored, self._needed(x, place, stored)) if stored else 0.0

    def _needed(self, x: Instruction, place: int, stored: float) -> float:
        """What it needs of an operand of `stored` bytes, wherever that lies."""
        if place == 0 and x.op in ("slice", "dynamic-slice", "gather"):
            return _size(x)
        if place == 0 and x.op == "slice-start":
            return _arrays(x)[1].size
        if place == 0 and x.op in _UPDATES:
            return 0.0  # what is not replaced stays where it is
        if x.op != "fusion":
            return stored
        inside = self.computations[x.called[0]]
        parameter = next(p for p in inside.values() if p.op == "parameter" and p.rest.startswith(f"{place})"))
        return self._used(parameter, inside, stored)

    def _used(self, value: Instruction, body: Computation, stored: float) -> float:
        """What a computation needs of a value of `stored` bytes, also under another name."""
        if value.root:
            return stored
        total = 0.0
        for user in body.values():
            for place in (place for place, name in enumerate(user.operands) if name == value.name):
                renamed = user.op in ("bitcast", "tuple")
                total += self._used(user, body, stored) if renamed else self._needed(user, place, stored)
        return total

    def _written(self, x: Instruction, body: Computation) -> float:
        """What an instruction writes to main memory."""
        placed = _arrays(x)
        if x.op == "copy-start":  # (to, from, ...)
            placed = placed[:1]
        elif x.op == "slice-start":  # ((from), to, ...)
            placed = placed[1:2]
        elif x.op in _STARTS:  # (from, to, ...)
            placed = [max(placed)]
        made = self._made(x, body) if x.op in ("fusion", *_UPDATES) else [array.size for array in placed]
        return sum(min(size, array.size) for size, array in zip(made, placed, strict=True) if array.main)

    def _made(self, x: Instruction, body: Computation) -> list[float]:
        """Bytes of each of its results that an instruction makes: of an update in place only those replaced."""
        if x.op in _UPDATES:
            count = len(x.operands) // 2 if x.op == "scatter" else 1  # arrays, then where, then what is new there
            first = count + 1 if x.op == "scatter" else 1
            return [_size(body[name]) for name in x.operands[first : first + count]]
        if x.op != "fusion":
            return [array.size for array in _arrays(x)]
        inside = self.computations[x.called[0]]
        root = next(value for value in inside.values() if value.root)
        parts = [inside[name] for name in root.operands] if root.op == "tuple" else [root]
        return [size for part in parts for size in self._made(_plain(part, inside), inside)]


def _arrays(x: Instruction) -> list[Array]:
    return arrays(x.shape)


def _size(x: Instruction) -> float:
    return sum(array.size for array in _arrays(x))


def _main(x: Instruction) -> float:
    return sum(array.size for array in _arrays(x) if array.main)


def _plain(x: Instruction, body: Computation) -> Instruction:
    """What a bitcast names otherwise."""
    while x.op == "bitcast":
        x = body[x.operands[0]]
    return x
