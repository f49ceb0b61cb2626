"""The carry law as a test kit: hold any streaming module, ours or yours, against it.

    from streamzoo.layers.contract import Subject, verify_contract
    verify_contract(Subject.of(module, variables, make_input))

A streaming function maps (carry, x [B, T, ...]) to (carry, y [B, T, ...]) for any T >= 1; x and y
may be pytrees. Each ``check_*`` raises AssertionError with the law, the leaf and the difference.
The idea of one verifier for every layer is that of google/sequence-layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Tree = Any


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the kit needs to know of a streaming module, parameters bound.

    Attributes:
      init_carry: batch -> carry.
      step: (carry, x, valid [B, T] or None) -> (carry, y).
      make_input: (seed, batch, steps) -> x, random, leaves [B, T, ...].
      latency: frames until the output for a frame is final.
      flush: carry -> (carry, the last ``latency`` outputs); needed where latency > 0.
      differentiable: input leaves may be integers (then only perturbation is used).
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
        variables: Any,
        make_input: Callable[[int, int, int], Tree],
        *,
        init_carry: Callable[[int], Tree] | None = None,
        atol: float = 1e-5,
    ) -> Subject:
        """Of a Flax module with ``init_carry(batch)``, ``latency`` and maybe ``flush``."""

        def flush(carry):
            return module.apply(variables, carry, method="flush")

        return cls(
            init_carry or module.init_carry,
            lambda carry, x, valid: module.apply(variables, carry, x, valid),
            make_input,
            module.latency,
            flush if module.latency else None,
            atol,
        )

    @functools.cached_property
    def jitted(self) -> Callable[[Tree, Tree, Array | None], tuple[Tree, Tree]]:
        """The step, compiled once per shape for all laws together."""
        return jax.jit(self.step)

    def run(self, carry: Tree, x: Tree, lengths: Sequence[int]) -> tuple[Tree, Tree]:
        """The step over chunks of the given lengths: (carry, outputs joined)."""
        parts, at = [], 0
        for n in lengths:
            carry, y = self.jitted(carry, _cut(x, at, at + n), None)
            parts.append(y)
            at += n
        return carry, _join(parts)


def _steps(x: Tree) -> int:
    return jax.tree.leaves(x)[0].shape[1]


def _cut(x: Tree, start: int, stop: int) -> Tree:
    return jax.tree.map(lambda a: a[:, start:stop], x)


def _join(parts: Sequence[Tree]) -> Tree:
    return jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *parts)


def difference(got: Tree, want: Tree) -> tuple[float, str]:
    """The largest |got - want| / max(1, |want|) over all leaves, and the leaf's name."""
    worst, where = 0.0, ""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(got),
        jax.tree_util.tree_leaves_with_path(want),
        strict=True,
    )
    for (path, a), (_, b) in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, f"{jax.tree_util.keystr(path)}: {a.shape} against {b.shape}"
        if not a.size:
            continue
        gap = np.abs(a - b) / np.maximum(1.0, np.abs(b))
        top = float(np.max(np.where(np.isnan(gap), np.inf, gap)))
        if top > worst:
            worst, where = top, jax.tree_util.keystr(path)
    return worst, where


def _same(law: str, got: Tree, want: Tree, atol: float) -> None:
    worst, where = difference(got, want)
    assert worst <= atol, f"{law}: {where or 'leaf'} differs by {worst:.3g} > {atol:g}"


def _bitwise(law: str, got: Tree, want: Tree) -> None:
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        equal = np.array_equal(np.asarray(a), np.asarray(b), equal_nan=False)
        assert equal, f"{law}: {jax.tree_util.keystr(path) or 'leaf'} is not equal bit for bit"


CHUNKS = (1, 2, 4)  # few lengths, so that few shapes are compiled


def random_splits(steps: int, seed: int) -> list[int]:
    """Chunk lengths out of :data:`CHUNKS` that add up to ``steps``, drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    lengths = []
    while left := steps - sum(lengths):
        lengths.append(int(rng.choice([n for n in CHUNKS if n <= left])))
    return lengths


def check_chunking(s: Subject, *, steps: int = 11, batch: int = 2, seeds: int = 20) -> None:
    """Law 1: any split of the frames gives the same outputs and the same final carry."""
    x = s.make_input(0, batch, steps)
    want = s.jitted(s.init_carry(batch), x, None)
    for lengths in [[1] * steps, *(random_splits(steps, seed) for seed in range(seeds))]:
        got = s.run(s.init_carry(batch), x, lengths)
        _same(f"chunking {lengths}", got, want, s.atol)


def check_scan(s: Subject, *, steps: int = 11, batch: int = 2) -> None:
    """Law 1: lax.scan over single frames equals the clip."""
    x = s.make_input(7, batch, steps)

    def frame(carry, piece):
        carry, y = s.step(carry, jax.tree.map(lambda a: a[:, None], piece), None)
        return carry, jax.tree.map(lambda a: a[:, 0], y)

    pieces = jax.tree.map(lambda a: a.swapaxes(0, 1), x)
    carry, ys = jax.jit(lambda c, p: jax.lax.scan(frame, c, p))(s.init_carry(batch), pieces)
    got = carry, jax.tree.map(lambda a: a.swapaxes(0, 1), ys)
    _same("scan over frames", got, s.jitted(s.init_carry(batch), x, None), s.atol)


def _floats(tree: Tree) -> list[Array]:
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]


def _differentiable(x: Tree) -> tuple[list[Array], Callable[[list[Array]], Tree]]:
    leaves, tree = jax.tree.flatten(x)
    picks = [i for i, a in enumerate(leaves) if jnp.issubdtype(a.dtype, jnp.floating)]

    def rebuild(floats):
        new = list(leaves)
        for i, a in zip(picks, floats, strict=True):
            new[i] = a
        return jax.tree.unflatten(tree, new)

    return [leaves[i] for i in picks], rebuild


def check_causality(s: Subject, *, steps: int = 5, batch: int = 1) -> None:
    """Law 2: what is emitted at step t has exactly zero gradient to frames after t, and some
    frame does matter. (An output emitted at t belongs to frame t - latency.)"""
    floats, rebuild = _differentiable(s.make_input(3, batch, steps))

    def emitted(values, t):
        _, y = s.step(s.init_carry(batch), rebuild(values), None)
        # Random weights: a plain sum can vanish identically behind a normalisation.
        total = 0.0
        for i, a in enumerate(_floats(y)):
            w = jax.random.normal(jax.random.key(i), a.shape[:1] + a.shape[2:])
            total += jnp.vdot(w, jnp.take(a, t, axis=1).astype(jnp.float32))
        return total

    grad = jax.jit(jax.grad(emitted))
    g = floats
    for t in range(steps):
        g = grad(floats, t)
        future = max(float(jnp.abs(a[:, t + 1 :]).max()) for a in g) if t + 1 < steps else 0.0
        assert future == 0.0, f"causality: output at {t} has gradient {future:g} to later frames"
        assert all(bool(jnp.isfinite(a).all()) for a in g), f"causality: gradient at {t} not finite"
    seen = max(float(jnp.abs(a).max()) for a in g)
    assert seen > 0, "causality: the last output depends on no frame at all"


def carry_bytes(carry: Tree) -> int:
    """Bytes of all leaves."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry))


def signature(carry: Tree) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, dtype) of every leaf."""
    return [
        (jax.tree_util.keystr(path), a.shape, str(a.dtype))
        for path, a in jax.tree_util.tree_leaves_with_path(carry)
    ]


def check_fixed_point(s: Subject, *, batch: int = 2) -> None:
    """Law 3: the carry's tree, shapes and dtypes never change; every leaf is [batch, ...]; one
    more stream adds the same bytes; counters are int32 and safe for a year at 60 fps."""
    carry = s.init_carry(batch)
    before, tree = signature(carry), jax.tree.structure(carry)
    for name, shape, dtype in before:
        assert shape[:1] == (batch,), f"fixed point: {name} {shape} has no batch axis in front"
        assert not dtype.startswith(("int64", "uint", "float64")), f"fixed point: {name} {dtype}"
    for steps in (1, 4):
        new, _ = jax.eval_shape(s.step, carry, s.make_input(0, batch, steps), None)
        assert jax.tree.structure(new) == tree, f"fixed point: tree changed after {steps} frames"
        assert signature(new) == before, (
            f"fixed point: {set(signature(new)) ^ set(before)} after {steps} frames"
        )
    one, two = carry_bytes(s.init_carry(1)), carry_bytes(s.init_carry(2))
    assert two == 2 * one, f"fixed point: {one} bytes for one stream, {two} for two"


def check_year(s: Subject, *, warm: int, period: int = 720_720, batch: int = 1) -> None:
    """Law 3: counters moved on by a year of 60 fps frames change nothing but themselves.

    ``warm`` frames fill the memory first; ``period`` must be a multiple of every ring's size.
    """
    year = (60 * 3600 * 24 * 365 // period) * period
    step = s.jitted
    carry, _ = step(s.init_carry(batch), s.make_input(1, batch, warm), None)
    ints = [jnp.issubdtype(a.dtype, jnp.integer) for a in jax.tree.leaves(carry)]
    assert any(ints), "year: this carry has no counters; the check would be empty"
    old = jax.tree.map(
        lambda a: a + year * (a >= warm // 2) if jnp.issubdtype(a.dtype, jnp.integer) else a, carry
    )
    x = s.make_input(2, batch, 5)
    _same("year", step(old, x, None)[1], step(carry, x, None)[1], s.atol)


def take_stream(carry: Tree, index: int) -> Tree:
    """One stream of a batched carry, leaves [1, ...]."""
    return jax.tree.map(lambda a: a[index : index + 1], carry)


def put_stream(carry: Tree, index: int, one: Tree) -> Tree:
    """The carry with stream ``index`` replaced by ``one`` (leaves [1, ...])."""
    return jax.tree.map(lambda a, b: a.at[index].set(b[0]), carry, one)


def check_slots(s: Subject, *, batch: int = 3, steps: int = 3) -> None:
    """Law 4: a stream can be reset, taken out and put elsewhere; the others do not notice, bit
    for bit, and the moved stream goes on as if nothing had happened."""
    step = s.jitted
    past, future = s.make_input(0, batch, steps), s.make_input(1, batch, steps)
    carry, _ = step(s.init_carry(batch), past, None)
    want_carry, want = step(carry, future, None)
    others = [i for i in range(batch) if i != 1]

    reset = put_stream(carry, 1, s.init_carry(1))
    got_carry, got = step(reset, future, None)
    pick = lambda tree, rows: jax.tree.map(lambda a: a[np.asarray(rows)], tree)  # noqa: E731
    _bitwise("slots, reset", pick((got_carry, got), others), pick((want_carry, want), others))
    _, fresh = step(s.init_carry(batch), future, None)
    _bitwise("slots, the reset stream", pick(got, [1]), pick(fresh, [1]))

    # Streams 0 and 2 change places, and so do their frames.
    swap = lambda tree: pick(tree, [2, 1, 0])  # noqa: E731
    first, last = take_stream(carry, 0), take_stream(carry, 2)
    moved = put_stream(put_stream(carry, 0, last), 2, first)
    got_carry, got = step(moved, swap(future), None)
    _same("slots, moved", swap((got_carry, got)), (want_carry, want), s.atol)
    _bitwise("slots, beside a move", pick((got_carry, got), [1]), pick((want_carry, want), [1]))


def check_gaps(s: Subject, *, steps: int = 11, batch: int = 2, seeds: int = 3) -> None:
    """Law 5: an invalid frame, even NaN, is as if it never came: the carry and the outputs of
    the valid frames are those of the stream without it, and nothing becomes NaN."""
    step = s.jitted
    for seed in range(seeds):
        x = s.make_input(seed, batch, steps)
        rng = np.random.default_rng(seed)
        valid = rng.random((batch, steps)) < 0.6
        valid[:, seed % steps] = False
        valid[0, (seed + 1) % steps] = True

        def poison(a):
            if not jnp.issubdtype(a.dtype, jnp.floating):
                return a
            return jnp.where(valid.reshape(valid.shape + (1,) * (a.ndim - 2)), a, jnp.nan)  # noqa: B023

        carry, y = step(s.init_carry(batch), jax.tree.map(poison, x), jnp.asarray(valid))
        for a in _floats((carry, y)):
            assert bool(jnp.isfinite(a).all()), "gaps: a NaN of an invalid frame came through"
        start = s.init_carry(batch)
        held, _ = step(start, jax.tree.map(poison, x), jnp.zeros_like(valid))
        _bitwise("gaps, nothing but gaps", held, start)
        for b in range(batch):
            keep = np.flatnonzero(valid[b])
            if not keep.size:
                continue
            dense = jax.tree.map(lambda a: a[b : b + 1, keep], x)  # noqa: B023
            want_carry, want = s.run(s.init_carry(1), dense, [1] * len(keep))
            got = jax.tree.map(lambda a: a[b : b + 1, keep], y)  # noqa: B023
            _same("gaps, outputs", got, want, s.atol)
            _same("gaps, carry", take_stream(carry, b), want_carry, s.atol)


def check_latency(s: Subject, *, steps: int = 11, batch: int = 2) -> None:
    """Law 6: the outputs after warm-up plus ``flush`` are one per frame, however it was cut."""
    x = s.make_input(5, batch, steps)
    if not s.latency:
        return
    assert s.flush is not None, f"latency: {s.latency} frames are declared but there is no flush"

    flush = s.flush

    def whole(lengths):
        carry, y = s.run(s.init_carry(batch), x, lengths)
        carry, tail = flush(carry)
        assert _steps(tail) == s.latency, f"latency: flush gave {_steps(tail)} outputs"
        return _join([_cut(y, s.latency, steps), tail])

    want = whole([steps])
    assert _steps(want) == steps, f"latency: {_steps(want)} outputs for {steps} frames"
    _same("latency, flush", whole([1] * steps), want, s.atol)


def check_gradients(s: Subject, *, steps: int = 3, batch: int = 2) -> None:
    """The gradient of a loss is the same through the clip and through the stream."""
    floats, rebuild = _differentiable(s.make_input(11, batch, steps))

    def loss(values, lengths):
        x, carry, at, total = rebuild(values), s.init_carry(batch), 0, 0.0
        for n in lengths:
            carry, y = s.step(carry, _cut(x, at, at + n), None)
            at += n
            total += sum(jnp.sin(a.astype(jnp.float32)).sum() for a in _floats(y))
        return total

    clip = jax.jit(jax.grad(lambda v: loss(v, [steps])))(floats)
    stream = jax.jit(jax.grad(lambda v: loss(v, [1] * steps)))(floats)
    scale = max(1.0, max(float(jnp.abs(a).max()) for a in clip))
    _same("gradients", [a / scale for a in stream], [a / scale for a in clip], s.atol)


def check_peek(s: Subject, *, steps: int = 2, batch: int = 2) -> None:
    """Law 7: reading ahead without keeping the new carry (peek) any number of times changes
    nothing; keeping it (commit) gives the same answer as the peek did."""
    step = s.jitted
    carry, _ = step(s.init_carry(batch), s.make_input(0, batch, steps), None)
    before = jax.tree.map(np.array, carry)
    peeks = [step(carry, s.make_input(seed, batch, 2), None)[1] for seed in (1, 2, 1)]
    _bitwise("peek changes the carry", carry, before)
    _bitwise("peek twice", peeks[0], peeks[2])
    _bitwise("commit", step(carry, s.make_input(1, batch, 2), None)[1], peeks[0])


LAWS: tuple[Callable[..., None], ...] = (
    check_chunking,
    check_scan,
    check_causality,
    check_fixed_point,
    check_slots,
    check_gaps,
    check_latency,
    check_gradients,
    check_peek,
)


def verify_contract(subject: Subject, laws: Sequence[Callable[..., None]] = LAWS) -> None:
    """Runs every law; raises AssertionError naming the law that is broken and by how much."""
    for law in laws:
        law(subject)
