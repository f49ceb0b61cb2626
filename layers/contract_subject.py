"""What the contract kit needs to know of a streaming module, and how two trees are compared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .streaming import Params, flushes, keeps_state, latency_of

Array = jax.Array
Tree = Any


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the kit needs to know of a streaming module, parameters bound.

    Attributes:
      init_carry: batch -> carry.
      step: (carry, x, valid [B, T] or None) -> (carry, y).
      make_input: (seed, batch, steps) -> x, random, leaves [B, T, ...]. Leaves may be integers or
        booleans: those have no gradient, and are judged by perturbation alone.
      latency: frames until the output for a frame is final.
      flush: carry -> (carry, the last ``latency`` outputs); needed where latency > 0.
      atol: absolute tolerance of equality, relative to max(1, |reference|).
    """

    init_carry: Callable[[int], Tree]
    step: Callable[[Tree, Tree, Array | None], tuple[Tree, Tree]]
    make_input: Callable[[int, int, int], Tree]
    latency: int = 0
    flush: Callable[[Tree], tuple[Tree, Tree]] | None = None
    atol: float = 1e-5

    @classmethod
    def of(
        cls,
        module: Any,
        variables: Params,
        make_input: Callable[[int, int, int], Tree],
        *,
        init_carry: Callable[[int], Tree] | None = None,
        atol: float = 1e-5,
    ) -> Subject:
        """Of a Flax module ``(carry, x, valid) -> (carry, y)`` with ``init_carry(batch)`` and maybe
        ``latency`` (0 where it has none) and ``flush``.

        Raises:
          TypeError: there is no ``init_carry``, neither on the module nor as an argument.
        """
        if init_carry is None and keeps_state(module):
            init_carry = module.init_carry
        if init_carry is None:
            raise TypeError(
                f"{type(module).__name__} has no init_carry(batch); write one, or pass"
                " init_carry=lambda batch: ..., a tree of arrays [batch, ...]"
            )

        def flush(carry):
            return module.apply(variables, carry, method="flush")

        return cls(
            init_carry,
            lambda carry, x, valid: module.apply(variables, carry, x, valid),
            make_input,
            latency_of(module),
            flush if flushes(module) else None,
            atol,
        )

    @functools.cached_property
    def jitted(self) -> Callable[[Tree, Tree, Array | None], tuple[Tree, Tree]]:
        """The step, compiled once per shape for all laws together."""
        return jax.jit(self.step)

    @functools.cached_property
    def walk(self) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
        """(carry, x) -> (carry after x, the carries before each of its frames [T, B, ...])."""

        def frame(carry, piece):
            after, _ = self.step(carry, jax.tree.map(lambda a: a[:, None], piece), None)
            return after, carry

        return jax.jit(
            lambda carry, x: jax.lax.scan(frame, carry, jax.tree.map(lambda a: a.swapaxes(0, 1), x))
        )

    def run(
        self, carry: Tree, x: Tree, lengths: Sequence[int], valid: Array | None = None
    ) -> tuple[Tree, Tree]:
        """The step over chunks of the given lengths: (carry, outputs joined)."""
        x, parts, at = host(x), [], 0
        for n in lengths:
            some = None if valid is None else valid[:, at : at + n]
            carry, y = self.jitted(carry, cut(x, at, at + n), some)
            parts.append(y)
            at += n
        return carry, join(parts)


def steps_of(x: Tree) -> int:
    return jax.tree.leaves(x)[0].shape[1]


def host(tree: Tree) -> Tree:
    """Arrays on the host: cut there, as jax compiles a program for every slice. Tracers stay."""
    return jax.tree.map(lambda a: a if isinstance(a, Tracer) else np.asarray(a), tree)


def cut(x: Tree, start: int, stop: int) -> Tree:
    return jax.tree.map(lambda a: a[:, start:stop], host(x))


def join(parts: Sequence[Tree]) -> Tree:
    return jax.tree.map(lambda *a: np.concatenate(a, axis=1), *map(host, parts))


def pick(tree: Tree, rows: Sequence[int]) -> Tree:
    """The named streams of a batch, in that order."""
    return jax.tree.map(lambda a: a[np.asarray(rows)], host(tree))


def parts(result: tuple[Tree, Tree]) -> dict[str, Tree]:
    """What a step gives, so named that a message can say which of both it is about."""
    return {"carry": result[0], "output": result[1]}


def is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def is_integer(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.integer)


def floats(tree: Tree) -> list[Array]:
    return [a for a in jax.tree.leaves(tree) if is_float(a)]


def named(tree: Tree) -> list[tuple[str, Any]]:
    """(name, leaf) of every leaf."""
    return [
        (jax.tree_util.keystr(path) or "leaf", a)
        for path, a in jax.tree_util.tree_leaves_with_path(tree)
    ]


def gaps_between(got: Any, want: Any) -> np.ndarray:
    """|got - want| / max(1, |want|) of two arrays of one shape; NaN counts as infinite."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    return np.where(np.isnan(gap), np.inf, gap)


def difference(got: Tree, want: Tree) -> tuple[float, str]:
    """The largest |got - want| / max(1, |want|) over all leaves, and the leaf's name."""
    worst, where = 0.0, ""
    for (name, a), (_, b) in zip(named(got), named(want), strict=True):
        assert a.shape == b.shape, f"{name}: {a.shape} against {b.shape}"
        top = float(gaps_between(a, b).max(initial=0.0))
        if top > worst:
            worst, where = top, name
    return worst, where


def alike(law: str, got: Tree, want: Tree) -> None:
    """The same tree, with leaves of the same shapes."""
    one, two = jax.tree.structure(got), jax.tree.structure(want)
    assert one == two, f"{law}: the tree is {one} and should be {two}"
    for (name, a), (_, b) in zip(named(got), named(want), strict=True):
        assert a.shape == b.shape, f"{law}: {name} is {list(a.shape)} and should be {list(b.shape)}"


def same(law: str, got: Tree, want: Tree, atol: float) -> None:
    alike(law, got, want)
    for (name, a), (_, b) in zip(named(got), named(want), strict=True):
        gap = gaps_between(a, b)
        worst = float(gap.max(initial=0.0))
        if worst > atol:
            at = [int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape)]
            raise AssertionError(
                f"{law}: {name} {list(a.shape)} differs by {worst:.3g} > {atol:g} at {at}"
            )


def bitwise(law: str, got: Tree, want: Tree) -> None:
    alike(law, got, want)
    for (name, a), (_, b) in zip(named(got), named(want), strict=True):
        equal = np.array_equal(np.asarray(a), np.asarray(b), equal_nan=False)
        assert equal, f"{law}: {name} {list(a.shape)} is not equal bit for bit"


def carry_bytes(carry: Tree) -> int:
    """Bytes of all leaves."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry))


def signature(carry: Tree) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, dtype) of every leaf."""
    return [
        (jax.tree_util.keystr(path), a.shape, str(a.dtype))
        for path, a in jax.tree_util.tree_leaves_with_path(carry)
    ]


def take_stream(carry: Tree, index: int) -> Tree:
    """One stream of a batched carry, leaves [1, ...]."""
    return jax.tree.map(lambda a: a[index : index + 1], carry)


def put_stream(carry: Tree, index: int, one: Tree) -> Tree:
    """The carry with stream ``index`` replaced by ``one`` (leaves [1, ...])."""
    return jax.tree.map(lambda a, b: a.at[index].set(b[0]), carry, one)
