"""Single changes of a Python source that should make a test fail: the mutants of ``mutants.py``.

Operators, as in the literature (DeMillo, Lipton, Sayward, "Hints on test data selection", 1978, and
the tools mutmut and cosmic-ray): a comparison is shifted or turned, an arithmetic operator
replaced, a number moved by one (or scaled by half), a flag flipped, a negation taken away, ``and``
and ``or`` swapped, a condition turned, the two choices of ``where`` swapped, a minimum made a
maximum, a keyword argument left out. Not touched: texts, annotations, imports, ``raise`` and
``assert`` with what they say, and functions whose names begin with ``check`` or ``refus``.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
TWINS = {"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min", "argmax": "argmin",
         "any": "all", "all": "any"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change. ``key`` names it also after lines above it have moved."""

    file: str
    line: int
    place: str  # function or class around it
    before: str
    after: str
    span: tuple[int, int]  # bytes of the source
    key: str

    def apply(self, source: str) -> str:
        raw = source.encode()
        return (raw[: self.span[0]] + self.after.encode() + raw[self.span[1] :]).decode()


def mutants(file: str, source: str) -> list[Mutant]:
    """Every mutant of a source; each compiles."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    seen: dict[tuple[str, str, str], int] = {}
    found = []
    for place, node, after in _walk(ast.parse(source), ""):
        span = (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[operator]
        )
        before = source.encode()[span[0] : span[1]].decode()
        number = seen[place, before, after] = seen.get((place, before, after), -1) + 1
        text = "|".join((file, place, before, after, str(number)))
        key = hashlib.sha256(text.encode()).hexdigest()[:10]
        mutant = Mutant(file, node.lineno, place, before, after, span, key)
        try:
            compile(mutant.apply(source), file, "exec")
        except (SyntaxError, ValueError):
            continue  # inside an f-string, whose parts have no place of their own
        found.append(mutant)
    return found


def _walk(node: ast.AST, place: str) -> Iterator[tuple[str, ast.expr, str]]:
    """(where, the expression, what stands there instead)."""
    if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    if isinstance(node, ast.If) and all(isinstance(s, ast.Raise) for s in node.body):
        for child in node.orelse:
            yield from _walk(child, place)
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if node.name.lstrip("_").startswith(("check", "refus")) or node.name == "__repr__":
            return
        place = f"{place}.{node.name}".lstrip(".")
        parts: list[ast.AST] = [*node.body]
        if not isinstance(node, ast.ClassDef):
            parts += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    elif isinstance(node, ast.AnnAssign):
        parts = [node.value] if node.value else []
    else:
        parts = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.expr):
        for new in _changed(node):
            yield place, node, f"({ast.unparse(new)})" if isinstance(new, ast.expr) else new
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield place, node.test, f"(not ({ast.unparse(node.test)}))"
    for child in parts:
        yield from _walk(child, place)


def _changed(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARE:
        yield ast.Compare(node.left, [COMPARE[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not _text(node.left) and not _text(node.right):
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)
        elif isinstance(node.value, float):
            yield ast.Constant(node.value * 1.5 or 1.0)
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name == "where" and len(node.args) == 3:
            a, b, c = node.args
            yield ast.Call(node.func, [a, c, b], node.keywords)
        if name in TWINS and isinstance(node.func, ast.Attribute):
            func = ast.Attribute(node.func.value, TWINS[name], ast.Load())
            yield ast.Call(func, node.args, node.keywords)
        for i, keyword in enumerate(node.keywords):
            if keyword.arg not in (None, "dtype", "preferred_element_type", "name"):
                rest = node.keywords[:i] + node.keywords[i + 1 :]
                yield ast.Call(node.func, node.args, rest)


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def at_import(source: str, line: int) -> bool:
    """Whether a line runs when its module is imported, outside the bodies of functions."""
    return not any(
        node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def marked(source: str, call: str) -> ast.Module:
    """The source whose functions call ``call(first line, last line)`` before each statement."""
    tree = ast.parse(source)
    _mark_functions(tree.body, call)
    return ast.fix_missing_locations(tree)


def _mark_functions(body: list[Any], call: str) -> None:
    for one in body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(one) is not None
            one.body = one.body[:said] + _marked(one.body[said:], call)
        elif isinstance(one, ast.ClassDef):
            _mark_functions(one.body, call)


def _marked(body: list[Any], call: str) -> list[Any]:
    out = []
    for one in body:
        last = one.end_lineno
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            last = one.body[0].lineno - 1
            _mark_functions([one], call)
        else:
            parts = [one, *getattr(one, "handlers", ()), *getattr(one, "cases", ())]
            for part in parts:
                for name in ("body", "orelse", "finalbody"):
                    block = getattr(part, name, None)
                    if isinstance(block, list) and block:
                        last = min(last, block[0].lineno - 1)
                        setattr(part, name, _marked(block, call))
        mark = ast.parse(f"{call}({one.lineno}, {max(last, one.lineno)})").body[0]
        out += [ast.copy_location(mark, one), one]
    return out
