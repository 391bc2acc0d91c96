"""Bytes that a compiled program moves between its chip and main memory."""

from ssl_jax.plan.program import CONTROL, NAMES, Array, Computation, Instruction, parse, trips


def main_memory(hlo: str) -> float:
    """Bytes that a compiled program reads from main memory and writes there.

    The compiler's own 'bytes accessed' also has what passes between arithmetic and the chip's own memory, and a copy
    from one memory to the other as much as four times. Here an operand counts where it lies in main memory, as much of
    it as the instruction needs, and a result where it is put there, both in whole tiles. A loop counts as often as it
    turns, and of branches the dearest.

    Args:
      hlo: the program's text.

    Raises:
      KeyError, IndexError, ValueError: for a text that is no such program.
    """
    computations, entry = parse(hlo)
    return _Traffic(computations).of(entry)


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
        if x.op in CONTROL:
            each = [self.of(name) for name in x.called]
            turns = trips(x, self.computations) if x.op == "while" else 1
            return max(each) if x.op == "conditional" else sum(each) * turns
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
            if user.op in NAMES:
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
