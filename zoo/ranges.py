"""Ranges of numbers, declared beside the fields of a config and checked by one mechanism.

    @dataclasses.dataclass(frozen=True)
    class LoopConfig(Checked):
        steps: Count = 1000
        momentum: Annotated[float, Range(0, 1, below=True)] = 0.95

A config refuses a number out of its range when it is made; settings and options of the command line
are read with the same declaration (:func:`of`, :func:`option`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import numbers
import types
import typing
import warnings
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field takes; finite ones only.

    Attributes:
      low, high: the least and the largest; None: no bound.
      above, below: without ``low`` itself, without ``high`` itself.
      also: single numbers besides.
      note: what a special number means, such as "0: off".
    """

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()
    note: str = ""

    def holds(self, value: float) -> bool:
        """True for a number of the range."""
        if value in self.also:
            return True
        if not math.isfinite(value):
            return False
        if self.low is not None and (value <= self.low if self.above else value < self.low):
            return False
        return not (
            self.high is not None and (value >= self.high if self.below else value > self.high)
        )

    def __str__(self) -> str:
        parts = []
        plain = not (self.above or self.below)
        if self.low is not None and self.high is not None and plain:
            parts.append(f"{self.low:.10g} to {self.high:.10g}")
        elif self.low is not None:
            parts.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high is not None and not (plain and self.low is not None):
            parts.append(f"{'below' if self.below else 'at most'} {self.high:.10g}")
        text = " and ".join(parts) or "a finite number"
        if self.note:
            return f"{text} ({self.note})"
        return text + "".join(f" or {value:g}" for value in self.also)


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Port = Annotated[int, Range(0, 65535)]
Size = tuple[Count, Count]


class Dataclass(Protocol):
    """An instance of any dataclass, such as a config of which only some fields matter."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """Field -> its type with its range; {} where a type is not known by name."""
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError:
        return {}


def of(kind: type, field: str) -> Any:
    """The type, with its range, of a config's field."""
    return hints(kind)[field]


def problem(value: Any, hint: Any) -> str:
    """What a value of the annotated type should be instead; "" for one that it may be."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if found := problem(value, inner[0]):
            return found
        broken = [r for r in inner[1:] if isinstance(r, Range) and not r.holds(value)]
        return str(broken[0]) if broken else ""
    if origin in (typing.Union, types.UnionType):
        found = [problem(value, one) for one in inner]
        return "" if not all(found) else " or ".join(found)
    if origin is typing.Literal:
        return "" if value in inner else "one of " + ", ".join(map(str, inner))
    if origin is tuple and isinstance(value, (tuple, list)):
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) != len(value):
            return f"{len(kinds)} values"
        found = [
            text for one, kind in zip(value, kinds, strict=True) if (text := problem(one, kind))
        ]
        return f"{found[0]} in each place" if found else ""
    if hint is int and not (isinstance(value, numbers.Integral) and not isinstance(value, bool)):
        return "a whole number"
    if hint is float and not (isinstance(value, numbers.Real) and not isinstance(value, bool)):
        return "a number"
    if hint is float and not math.isfinite(typing.cast(float, value)):
        return "a finite number"
    return "" if hint is not type(None) or value is None else "none"


class Checked:
    """Base of a config: a value out of its field's range is refused with a ValueError."""

    def __post_init__(self) -> None:
        known = hints(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            value = getattr(self, field.name)
            if field.name in known and (found := problem(value, known[field.name])):
                raise ValueError(f"{field.name}={value!r}: {field.name} is {found}")


_OLD: dict[type, dict[str, str]] = {}


def renamed(**words: str) -> Callable[[type[Config]], type[Config]]:
    """Of a dataclass: fields that had another name, ``old="new"``. The old word is still taken, by
    its constructor and ``dataclasses.replace``, with a DeprecationWarning."""

    def decorate(kind: type[Config]) -> type[Config]:
        init = kind.__init__
        _OLD[kind] = words

        @functools.wraps(init)
        def wrapped(self: Any, *args: Any, **given: Any) -> None:
            for old in words.keys() & given.keys():
                text = f"{kind.__name__}.{old} is called {words[old]} now"
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                given[words[old]] = given.pop(old)
            init(self, *args, **given)

        kind.__init__ = wrapped
        return kind

    return decorate


def old_words(kind: type) -> dict[str, str]:
    """Old name -> new name of a config's fields."""
    return _OLD.get(kind, {})


def option(hint: Any) -> Callable[[str], Any]:
    """For ``argparse``'s ``type``: reads one number of the annotated type."""
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if typing.get_origin(base) in (typing.Union, types.UnionType):
        (hint,) = (one for one in typing.get_args(base) if one is not type(None))
        return option(hint)
    words = "a whole number" if base is int else "a number"

    def read(text: str) -> Any:
        try:
            value = base(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: give {words}") from None
        if found := problem(value, hint):
            raise argparse.ArgumentTypeError(f"{text}: give {words}, {found}")
        return value

    return read
