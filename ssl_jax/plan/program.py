"""The text of a compiled program (HLO), read into instructions."""

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
NAMES = ("bitcast", "tuple", "get-tuple-element", "opt-barrier", "add-dependency")
_FREE = (*NAMES, "parameter", "constant", "after-all", "partition-id", "replica-id")
_FREE_CALLS = ("ConcatBitcast", "AllocateBuffer")  # of pieces that lie beside each other already; of nothing yet
CONTROL = ("call", "while", "conditional", "call-start", "async-start")


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
        sides, layout = numbers(match["sides"]), match["layout"] or "{}"
        order, _, rest = layout[1:-1].partition(":")
        tile = re.match(r"T\(([\d,]+)\)", rest)
        least = numbers(tile[1])[::-1] if tile else []
        inward = [sides[axis] for axis in numbers(order)] or sides[::-1]  # from the axis whose elements are neighbours
        padded = [-(-side // step) * step for side, step in zip(inward, least, strict=False)] + inward[len(least) :]
        size = int(match["bits"] or 8) / 8
        found.append(Array(size * math.prod(sides), size * math.prod(padded), "S(" not in layout))
    return found


def sides(shape: str) -> list[int]:
    """The sides of the first array of a shape."""
    found = _ARRAY.search(shape)
    return numbers(found["sides"]) if found else []


def numbers(text: str) -> list[int]:
    """Whole numbers that are separated by commas."""
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


def trips(loop: Instruction, computations: dict[str, Computation]) -> int:
    """Turns of a loop: those the compiler knows, or that its condition compares a counter with; 1 if neither says it.

    JAX counts from 0 by ones.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    named = re.search(r"\bcondition=%([\w.\-]+)", loop.rest)
    condition = computations.get(named[1], {}) if named else {}
    for x in condition.values():
        if x.root and x.op == "compare" and "direction=LT" in x.rest and x.operands[1] in condition:
            bound = condition[x.operands[1]]
            if bound.op == "constant" and (value := re.match(r"(\d+)\)", bound.rest)):
                return int(value[1])
    return 1


def parse(hlo: str) -> tuple[dict[str, Computation], str]:
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
