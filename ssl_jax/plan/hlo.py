"""What the text of a compiled program (HLO) says of its traffic: with main memory, other chips and the host."""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"\b(?P<kind>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<sides>[\d,]*)\](?P<layout>\{[^}]*\})?")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
    r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<rest>.*)$"
)
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|true_computation|false_computation)="
    r"\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"
)
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# Other names for what is there already.
_NAMES = ("bitcast", "tuple", "get-tuple-element", "opt-barrier", "add-dependency")
_FREE = (*_NAMES, "parameter", "constant", "after-all", "partition-id", "replica-id")
_FREE_CALLS = ("ConcatBitcast", "AllocateBuffer")  # of pieces that lie beside each other already; of nothing yet
_CONTROL = ("call", "while", "conditional", "call-start", "async-start")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Array(NamedTuple):
    """One array of a shape, in bytes."""

    size: float
    stored: float  # in whole tiles
    main: bool  # in main memory, not in the chip's own or the host's


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    called: tuple[str, ...]  # computations
    rest: str  # the line behind the opening bracket
    root: bool

    @property
    def kind(self) -> str:
        """The operation, whether it is waited for or only begun."""
        return self.op.removesuffix("-start")

    @property
    def arrays(self) -> list[Array]:
        """All that it returns."""
        return arrays(self.shape)

    @property
    def results(self) -> list[Array]:
        """What it computes: of what is only begun without what goes in, of a library's call without its workspace."""
        if self.op == "copy-start":  # (to, from, ...)
            return self.arrays[:1]
        if self.op != self.kind and self.kind != "all-reduce":  # (from, to, ...), each of them one or several
            return arrays(_elements(self.shape)[1])
        return self.arrays[:-1] if self.target.startswith(("__cudnn", "__cublas")) else self.arrays

    @property
    def target(self) -> str:
        """What a custom call calls."""
        found = _TARGET.search(self.rest) if self.kind == "custom-call" else None
        return found[1] if found else ""

    @property
    def free(self) -> bool:
        """Whether nothing is done: a name, or the end of what is counted where it begins."""
        return self.op in _FREE or self.op.endswith("-done") or self.op == "async-update" or self.target in _FREE_CALLS


Computation = dict[str, Instruction]


def arrays(shape: str) -> list[Array]:
    """The arrays of an HLO shape such as 'f32[8,128]{1,0:T(8,128)S(1)}' or '(bf16[8], u32[])'.

    T(8,128) are tiles, of which a TPU stores and moves whole ones, and S(n) is the memory.
    """
    found = []
    for match in _ARRAY.finditer(shape):
        sides, layout = _numbers(match["sides"]), match["layout"] or "{}"
        order, _, rest = layout[1:-1].partition(":")
        tile = re.match(r"T\(([\d,]+)\)", rest)
        least = _numbers(tile[1])[::-1] if tile else []
        inward = [sides[axis] for axis in _numbers(order)] or sides[::-1]  # from the axis whose elements are neighbours
        padded = [-(-side // step) * step for side, step in zip(inward, least, strict=False)] + inward[len(least) :]
        size = int(match["bits"] or 8) / 8
        found.append(Array(size * math.prod(sides), size * math.prod(padded), "S(" not in layout))
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
        for x in computation.values():
            if x.kind in _COLLECTIVES and not x.free:
                # The TPU compiler repeats one in each of the fusions it is overlapped with; they form a chain.
                chain = re.search(r'chain_id="(\d+)"', x.rest)
                key = chain[0] if chain else x.name
                found.setdefault(x.kind, {})[key] = sum(array.size for array in x.results)
    return {kind: (len(sizes), sum(sizes.values())) for kind, sizes in sorted(found.items())}


def main_memory(hlo: str) -> float:
    """Bytes that a compiled program reads from main memory and writes there.

    The compiler's own 'bytes accessed' also has what passes between arithmetic and the chip's own memory, and a copy
    from one memory to the other as much as four times. Here an operand counts where it lies in main memory, as much of
    it as the instruction needs, and a result where it is put there, both in whole tiles. A loop counts once, as it does
    in the compiler's figures, and of branches the dearest.

    Args:
      hlo: the program's text.

    Raises:
      KeyError, IndexError, ValueError: for a text that is no such program.
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
    return [x.name for x, body in _run(computations, entry) if _waits(x, body)]


def kernels(hlo: str) -> int:
    """How many instructions of a compiled program a GPU starts, those of a loop counted once, those of all branches."""
    computations, entry = _parse(hlo)
    return sum(not x.free and x.op not in _CONTROL for x, _ in _run(computations, entry))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _elements(shape: str) -> list[str]:
    """The parts of a tuple's shape."""
    parts, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _parse(hlo: str) -> tuple[dict[str, Computation], str]:
    """All computations by name, and the name of the one that is run."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in hlo.splitlines():
        if opened := _COMPUTATION.match(line):
            current = computations.setdefault(opened["name"], {})
            entry = opened["name"] if opened["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            operands = tuple(re.findall(r"%([\w.\-]+)", re.split(r"\)(?:,|$)", found["rest"])[0]))
            called = tuple(name.strip(" %") for names in _CALLED.findall(found["rest"]) for name in names.split(","))
            fields = (found["name"], found["shape"], found["op"], operands, called, found["rest"], bool(found["root"]))
            current[found["name"]] = Instruction(*fields)
    return computations, entry


def _run(computations: dict[str, Computation], name: str) -> Iterator[tuple[Instruction, Computation]]:
    """The instructions of a computation and of those that it calls, without those inside fusions."""
    body = computations[name]
    for x in body.values():
        yield x, body
        if x.op in _CONTROL:
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


class _Traffic:
    """Bytes to and from main memory, computation by computation."""

    def __init__(self, computations: dict[str, Computation]) -> None:
        self.computations = computations

    def of(self, name: str) -> float:
        """What one run of a computation moves."""
        body = self.computations[name]
        return sum(self._moved(x, body) for x in body.values())

    def _moved(self, x: Instruction, body: Computation) -> float:
        if x.free:
            return 0.0
        if x.op in _CONTROL:
            each = [self.of(name) for name in x.called]
            return max(each) if x.op == "conditional" else sum(each)
        read = sum(self._read(x, body[name]) for name in dict.fromkeys(x.operands))
        made = self._made(x, body)
        placed = x.results
        return read + sum(min(size, y.stored) for size, y in zip(made, placed, strict=True) if y.main)

    def _read(self, x: Instruction, operand: Instruction) -> float:
        """What an instruction reads of one of its operands in main memory."""
        stored = sum(array.stored for array in operand.arrays if array.main)
        return min(stored, self._needed(x, operand.name, stored)) if stored else 0.0

    def _needed(self, x: Instruction, name: str, stored: float) -> float:
        """What it needs of an operand of `stored` bytes, wherever that lies."""
        return sum(self._needed_at(x, place, stored) for place, operand in enumerate(x.operands) if operand == name)

    def _needed_at(self, x: Instruction, place: int, stored: float) -> float:
        if place == 0 and x.kind in ("slice", "dynamic-slice", "gather"):
            return _stored(x.results)
        if place < _targets(x):
            return 0.0  # what is not replaced stays where it is
        if x.kind != "fusion":
            return stored
        inside = self.computations[x.called[0]]
        parameter = next(p for p in inside.values() if p.op == "parameter" and p.rest.startswith(f"{place})"))
        return self._used(parameter, inside, stored, stored)

    def _used(self, value: Instruction, body: Computation, stored: float, returned: float) -> float:
        """What a computation needs of a value of `stored` bytes, and of it `returned` where it is the result."""
        if value.root:
            return returned
        total = 0.0
        for user in body.values():
            if value.name not in user.operands:
                continue
            if user.op in _NAMES:
                total += self._used(user, body, stored, returned)
                continue
            total += self._needed(user, value.name, stored)
            if value.name in user.operands[: _targets(user)]:  # which lives on with something replaced
                total += self._used(user, body, stored, 0.0)
        return total

    def _made(self, x: Instruction, body: Computation, fused: bool = False) -> list[float]:
        """Bytes of each of its results that an instruction makes: of an update in place only those replaced."""
        count = _targets(x)
        if count:
            first = count if x.kind == "dynamic-update-slice" else count + 1  # a scatter has its indices before
            new = [_stored(body[name].results) for name in x.operands[first : first + count]]
            old = [_plain(body[name], body) for name in x.operands[:count]] if fused else []
            before = [0.0 if y.op == "parameter" else sum(self._made(y, body, fused)) for y in old] or [0.0] * count
            return list(map(sum, zip(new, before, strict=True)))
        if x.kind != "fusion":
            return [array.stored for array in x.results]
        inside = self.computations[x.called[0]]
        root = next(value for value in inside.values() if value.root)
        parts = [inside[name] for name in root.operands] if root.op == "tuple" else [root]
        return [size for part in parts for size in self._made(_plain(part, inside), inside, fused=True)]


def _targets(x: Instruction) -> int:
    """How many of its first operands an instruction updates in place, where nothing else needs the old values."""
    return {"dynamic-update-slice": 1, "scatter": len(x.operands) // 2}.get(x.kind, 0)


def _stored(values: list[Array]) -> float:
    return sum(array.stored for array in values)


def _plain(x: Instruction, body: Computation) -> Instruction:
    """What a bitcast names otherwise."""
    while x.op == "bitcast":
        x = body[x.operands[0]]
    return x
