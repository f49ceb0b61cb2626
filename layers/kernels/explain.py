"""Which implementation a call would take on each platform, and why it is not a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from .dispatch import Choice, recording

CALLED = {"cuda": "gpu"}  # platforms as a user calls them


@dataclass(frozen=True)
class Explanation(Mapping[str, Choice]):
    """The choice of each platform: ``explanation["tpu"].implementation``; prints as a table.

    A function that calls several operations has more choices than the first call's, which are the
    mapping: ``choices`` holds all.
    """

    choices: tuple[Choice, ...]
    asked: str | None = None  # the implementation that the call named

    def __getitem__(self, platform: str) -> Choice:
        return self._first()[platform]

    def __iter__(self):
        return iter(self._first())

    def __len__(self) -> int:
        return len(self._first())

    def _first(self) -> dict[str, Choice]:
        found: dict[str, Choice] = {}
        for choice in self.choices:
            found.setdefault(CALLED.get(choice.platform, choice.platform), choice)
        return found

    def __str__(self) -> str:
        return "\n".join(dict.fromkeys(map(self._line, self.choices)))  # as of many equal blocks

    def _line(self, choice: Choice) -> str:
        where = CALLED.get(choice.platform, choice.platform)
        line = f"{choice.op} on {where}: {choice.implementation}"
        if choice.named:
            by = "the call names it" if self.asked else f"{choice.op} itself names it for these"
            return f"{line} ({', '.join([by, *choice.refused.values()])})"
        why = "; ".join(f"not {name}: {reason}" for name, reason in choice.refused.items())
        return f"{line} ({why})" if why else line


def explain(op: Callable[..., Any], *args: Any, **options: Any) -> Explanation:
    """Which implementation ``op(*args, **options)`` would take on cpu, gpu and tpu, and why.

    The call is traced and not computed; what is said is what the dispatcher did while it was. So
    it also tells what a layer's or a model's ``apply`` would take, where no ``jit`` inside has kept
    its trace.

    Args:
      op: an operation of ``layers/kernels``, or any function that calls some.
      args, options: as of the call; arrays, or shapes and dtypes (``jax.ShapeDtypeStruct``).

    Returns:
      The choices, by platform of the first operation that was called.

    Raises:
      KernelError: the operation does not take these arguments at all.
      ValueError: no operation was called.
    """
    leaves, tree = jax.tree.flatten((args, options))
    arrays = {i: x for i, x in enumerate(leaves) if hasattr(x, "shape") and hasattr(x, "dtype")}

    def call(arrays: dict[int, Any]) -> Any:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, options = jax.tree.unflatten(tree, filled)
        return op(*args, **options)

    with recording() as choices:
        jax.eval_shape(call, arrays)
    if not choices:
        name = getattr(op, "__name__", type(op).__name__)
        raise ValueError(
            f"{name} called no operation of layers/kernels: there is nothing to choose"
        )
    return Explanation(tuple(choices), options.get("implementation"))
