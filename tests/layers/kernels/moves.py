"""Bytes of a model's memory that a compiled step moves about: what is copied, not what is computed.

From the arguments that are donated, a program's text is followed through all that only moves data:
slices, copies, updates in place (of which only the part that is written counts), concatenations, in
loops as often as they run. What is computed from the memory ends there, and so does what a kernel
reads and writes where it lies.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "f64": 8}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_WORD = re.compile(r"%([\w.\-]+)")
_SAME = {"bitcast", "reshape", "copy-done", "opt-barrier", "optimization-barrier", "slice-done"}
_MOVE = {
    "copy", "copy-start", "slice", "slice-start", "dynamic-slice", "transpose", "concatenate",
    "convert", "select", "gather", "reverse", "pad",
}  # fmt: skip


@dataclass
class Op:
    name: str
    kind: str
    size: int  # bytes of the result
    type: str
    operands: list[str]
    text: str
    root: bool


@dataclass
class Found:
    """``total`` bytes, and the operations that move most of them."""

    turns: int = 1
    total: int = 0
    worst: list[tuple[int, str]] = field(default_factory=list)

    def add(self, count: int, op: Op, times: int) -> None:
        self.total += count * times
        if count:
            self.worst.append((count * times, f"{op.kind} {op.name}"))


def _size(text: str) -> int:
    total = 0
    for dtype, dims in _ARRAY.findall(text):
        total += _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
    return total


def _split_type(rest: str) -> tuple[str, str]:
    """A line behind ``=`` into the type and what follows."""
    if not rest.startswith("("):
        head, _, tail = rest.partition(" ")
        return head, tail
    depth = 0
    for i, char in enumerate(rest):
        depth += (char == "(") - (char == ")")
        if not depth:
            return rest[: i + 1], rest[i + 2 :]
    raise ValueError(f"a type that does not end: {rest[:80]}")


def _operands(tail: str) -> tuple[str, list[str]]:
    kind, _, rest = tail.partition("(")
    depth = 1
    for i, char in enumerate(rest):
        depth += (char == "(") - (char == ")")
        if not depth:
            return kind.strip(), _WORD.findall(rest[:i])
    return kind.strip(), _WORD.findall(rest)


def parse(text: str) -> tuple[dict[str, list[Op]], str]:
    """Computations by name, and the name of the entry."""
    found: dict[str, list[Op]] = {}
    current: list[Op] | None = None
    entry = ""
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = found.setdefault(head[1], [])
                entry = head[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif match := _LINE.match(line):
            kind_text, tail = _split_type(match[3])
            kind, operands = _operands(tail)
            size = _size(kind_text) // (2 if kind == "copy-start" else 1)
            root = bool(match[1])
            current.append(Op(match[2], kind, size, kind_text, operands, tail, root))
    return found, entry


def moved(text: str, turns: int = 1) -> Found:
    """Of the memory that a compiled step is given and gives back in the same buffers.

    ``turns``: of a loop whose length its program does not tell. What a TPU's compiler brings into
    fast memory (S(1)) and back at the ends of a step is not counted: it is read from there instead.
    """
    computations, entry = parse(text)
    aliases = text[text.index("input_output_alias=") :].split("entry_computation_layout", 1)[0]
    donated = {int(n) for n in re.findall(r": \((\d+),", aliases)}
    found = Found(turns)
    ops = computations[entry]
    count = sum(op.kind == "parameter" for op in ops)
    _walk(computations, entry, [i in donated for i in range(count)], 1, found)
    found.worst.sort(reverse=True)
    return found


def _any(taint: Any) -> bool:
    return any(map(_any, taint)) if isinstance(taint, list) else bool(taint)


def _walk(
    computations: dict, name: str, given: list, times: int, found: Found, fused: bool = False
) -> Any:
    """The taint of the computation's result: whether it is memory that was only moved.

    Within a fusion nothing is written but its results, so only these count (``fused``)."""
    ops = {op.name: op for op in computations[name]}
    taint: dict[str, Any] = {}
    root = None
    for op in computations[name]:
        own = [taint.get(n, False) for n in op.operands]
        taint[op.name] = _taint(computations, op, own, given, times, found, fused, ops)
        if op.root:
            root = op
    assert root is not None
    if fused:
        for one in [ops[n] for n in root.operands] if root.kind == "tuple" else [root]:
            count, op = _written(one, ops, taint)
            found.add(count, op, times)
    return taint[root.name]


def _written(op: Op, ops: dict[str, Op], taint: dict) -> tuple[int, Op]:
    """What a result of a fusion moves."""
    while op.kind in _SAME and op.operands:
        op = ops[op.operands[0]]
    if not _any(taint[op.name]) or op.kind == "parameter":
        return 0, op
    if op.kind in ("dynamic-update-slice", "scatter"):
        return ops[op.operands[-1 if op.kind == "scatter" else 1]].size, op
    return op.size, op


def _taint(computations, op, own, given, times, found, fused, ops) -> Any:
    called = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", op.text)
    if op.kind == "parameter":
        return given[int(re.match(r"parameter\((\d+)\)", op.text)[1])]  # pyright: ignore
    if op.kind == "tuple":
        return own
    if op.kind == "get-tuple-element":
        index = int(re.search(r"index=(\d+)", op.text)[1])  # pyright: ignore
        return own[0][index] if isinstance(own[0], list) else own[0]
    if op.kind == "while":
        body = re.search(r"body=%?([\w.\-]+)", op.text)[1]  # pyright: ignore
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', op.text)
        turns = int(trips[1]) if trips else found.turns
        return _walk(computations, body, own, times * turns, found)
    if op.kind == "conditional":
        names = re.search(r"branch_computations=\{([^}]*)\}", op.text)
        names = _WORD.findall(names[1]) if names else re.findall(
            r"(?:true|false)_computation=%?([\w.\-]+)", op.text
        )  # fmt: skip
        pairs = zip(names, own[1:], strict=True)
        return [_walk(computations, n, [t], times, found) for n, t in pairs][0]
    if op.kind == "fusion" and called:
        return _walk(computations, called[1], own, times, found, fused=True)
    if op.kind == "call" and called:
        return _walk(computations, called[1], own, times, found)
    if op.kind in _SAME:
        return own[0] if own else False
    if op.kind == "custom-call":
        pairs = re.findall(r"\{(\d*)\}: \((\d+), \{", op.text)
        if not pairs:
            return False
        results = {int(r or 0): _any(own[int(o)]) for r, o in pairs}
        if op.text and pairs[0][0] == "":
            return results[0]
        return [results.get(i, False) for i in range(max(results) + 1)]
    if op.kind in ("dynamic-update-slice", "scatter"):
        part = op.operands[-1 if op.kind == "scatter" else 1]
        if _any(own[0]) and not fused:
            found.add(ops[part].size, op, times)
        return _any(own[0])
    if op.kind in _MOVE and any(map(_any, own)):
        if not fused and "S(1)" not in op.type:
            found.add(op.size, op, times)
        return True
    return False
