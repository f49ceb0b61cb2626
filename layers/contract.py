"""The carry law as a test kit: hold any streaming module, ours or yours, against it.

    from streamzoo.layers.contract import Subject, verify_contract
    verify_contract(Subject.of(module, variables, make_input))

A streaming function maps (carry, x [B, T, ...]) to (carry, y [B, T, ...]) for any T >= 1; x and y
may be pytrees. Each ``check_*`` raises AssertionError with the law, the leaf, its sizes and the
difference. The idea of one verifier for every layer is that of google/sequence-layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .contract_subject import (
    Subject,
    Tree,
    bitwise,
    carry_bytes,
    cut,
    difference,
    floats,
    host,
    is_float,
    named,
    parts,
    pick,
    put_stream,
    same,
    signature,
    take_stream,
)
from .contract_time import check_endurance, check_latency, check_year

Array = jax.Array

CHUNKS = (1, 2, 3, 4)  # few lengths, so that few shapes are compiled
CLIPS = (5, 8, 17, 67)  # lengths tried once: odd, even, beyond blocks of 8, 16, 32 and 64


def random_splits(steps: int, seed: int) -> list[int]:
    """Chunk lengths out of :data:`CHUNKS` that add up to ``steps``, drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    lengths = []
    while left := steps - sum(lengths):
        lengths.append(int(rng.choice([n for n in CHUNKS if n <= left])))
    return lengths


def check_chunking(
    s: Subject,
    *,
    steps: int = 11,
    batch: int = 2,
    seeds: int = 20,
    clips: Sequence[int] = CLIPS,
) -> None:
    """Law 1: any split of the frames gives the same outputs and the same final carry.

    ``clips``: lengths of further chunks, each held against single frames; a program is compiled for
    each, so a large module may be given fewer.
    """
    x = s.make_input(0, batch, steps)
    want = s.jitted(s.init_carry(batch), x, None)
    for lengths in [[1] * steps, *(random_splits(steps, seed) for seed in range(seeds))]:
        got = s.run(s.init_carry(batch), x, lengths)
        same(f"chunking {lengths} against {steps} frames at once", parts(got), parts(want), s.atol)
    for length in clips:
        x = s.make_input(1, batch, length)
        got = s.jitted(s.init_carry(batch), x, None)
        want = s.run(s.init_carry(batch), x, [1] * length)
        same(
            f"chunking, {length} frames at once against single frames",
            parts(got),
            parts(want),
            s.atol,
        )


def check_scan(s: Subject, *, steps: int = 11, batch: int = 2) -> None:
    """Law 1: lax.scan over single frames equals the clip."""
    x = s.make_input(7, batch, steps)

    def frame(carry, piece):
        carry, y = s.step(carry, jax.tree.map(lambda a: a[:, None], piece), None)
        return carry, jax.tree.map(lambda a: a[:, 0], y)

    pieces = jax.tree.map(lambda a: a.swapaxes(0, 1), x)
    carry, ys = jax.jit(lambda c, p: jax.lax.scan(frame, c, p))(s.init_carry(batch), pieces)
    got = carry, jax.tree.map(lambda a: a.swapaxes(0, 1), ys)
    want = s.jitted(s.init_carry(batch), x, None)
    same(f"scan over {steps} frames", parts(got), parts(want), s.atol)


def _differentiable(x: Tree) -> tuple[list[Array], Callable[[list[Array]], Tree]]:
    leaves, tree = jax.tree.flatten(x)
    picks = [i for i, a in enumerate(leaves) if is_float(a)]

    def rebuild(values):
        new = list(leaves)
        for i, a in zip(picks, values, strict=True):
            new[i] = a
        return jax.tree.unflatten(tree, new)

    return [leaves[i] for i in picks], rebuild


def check_causality(s: Subject, *, steps: int = 5, batch: int = 1) -> None:
    """Law 2: what is emitted at step t does not change with the frames after t, and its gradient to
    them is exactly zero; some frame does matter. (An output emitted at t belongs to frame
    t - latency.) Integers have no gradient, and a rounded or stopped one is none: other frames in
    their place tell those."""
    steps = max(steps, s.latency + 2)
    x, other = (host(s.make_input(seed, batch, steps)) for seed in (3, 4))
    _, want = s.jitted(s.init_carry(batch), x, None)
    for t in range(steps - 1):
        mixed = jax.tree.map(
            lambda a, b: np.concatenate([a[:, : t + 1], b[:, t + 1 :]], axis=1),
            x,
            other,
        )
        _, got = s.jitted(s.init_carry(batch), mixed, None)
        law = f"causality: other frames after {t} of {steps} change an earlier output"
        same(law, cut(got, 0, t + 1), cut(want, 0, t + 1), s.atol)
    values, rebuild = _differentiable(x)
    if values and floats(want):
        _check_gradient_to_later(s, values, rebuild, steps, batch)
    else:
        _, moved = s.jitted(s.init_carry(batch), other, None)
        last = [cut(y, steps - 1, steps) for y in (want, moved)]
        seen = difference(*last)[0]
        assert seen > 0, f"causality: the last of {steps} outputs depends on no frame at all"


def _check_gradient_to_later(
    s: Subject, values: list[Array], rebuild: Callable, steps: int, batch: int
) -> None:
    def emitted(values, t):
        _, y = s.step(s.init_carry(batch), rebuild(values), None)
        # Random weights: a plain sum can vanish identically behind a normalisation.
        total = 0.0
        for i, a in enumerate(floats(y)):
            w = jax.random.normal(jax.random.key(i), a.shape[:1] + a.shape[2:])
            total += jnp.vdot(w, jnp.take(a, t, axis=1).astype(jnp.float32))
        return total

    grad = jax.jit(jax.grad(emitted))
    g = values
    for t in range(steps):
        g = grad(values, t)
        for (name, _), a in zip(named(values), g, strict=True):
            where = f"input {name} {list(a.shape)}"
            assert bool(jnp.isfinite(a).all()), (
                f"causality: gradient of output {t} of {steps} to {where} is not finite"
            )
            future = float(jnp.abs(a[:, t + 1 :]).max(initial=0.0))
            assert future == 0.0, (
                f"causality: output at {t} of {steps} has gradient {future:g} to later frames of"
                f" {where}"
            )
    seen = max(float(jnp.abs(a).max()) for a in g)
    assert seen > 0, f"causality: the last of {steps} outputs depends on no frame at all"


def check_fixed_point(s: Subject, *, batch: int = 2) -> None:
    """Law 3: the carry's tree, shapes and dtypes never change, whatever the frames' number or
    floating dtype; every leaf is [batch, ...], outputs are [batch, T, ...]; one more stream adds
    the same bytes; no 64-bit or unsigned numbers."""
    carry = s.init_carry(batch)
    before, tree = signature(carry), jax.tree.structure(carry)
    for name, shape, dtype in before:
        assert shape[:1] == (batch,), f"fixed point: {name} {shape} has no batch axis in front"
        assert not dtype.startswith(("int64", "uint", "float64")), (
            f"fixed point: {name} {list(shape)} is {dtype}"
        )
    bitwise("fixed point: two init_carry", carry, s.init_carry(batch))
    kinds = set()
    for steps in (1, 2, 3, 4):
        x = s.make_input(0, batch, steps)
        try:
            new, y = jax.eval_shape(s.step, carry, x, None)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"fixed point: {steps} frames are refused: {error}") from error
        _unchanged(new, before, tree, f"{steps} frames")
        for name, a in named(y):
            assert a.shape[:2] == (batch, steps), (
                f"fixed point: output {name} {list(a.shape)} is not [{batch}, {steps}, ...]"
            )
        kinds.add(tuple((name, str(a.dtype)) for name, a in named(y)))
    assert len(kinds) == 1, f"fixed point: the outputs' types change with the frames: {kinds}"
    for dtype in (jnp.bfloat16, jnp.float16):
        thin = jax.tree.map(lambda a: a.astype(dtype) if is_float(a) else a, x)
        try:
            new, _ = jax.eval_shape(s.step, carry, thin, None)
        except Exception:  # refusing another type is fair
            continue
        _unchanged(new, before, tree, f"frames of {jnp.dtype(dtype).name}")
    one, two = carry_bytes(s.init_carry(1)), carry_bytes(s.init_carry(2))
    assert two == 2 * one, f"fixed point: {one} bytes for one stream, {two} for two"


def _unchanged(new: Tree, before: list, tree: Any, after: str) -> None:
    assert jax.tree.structure(new) == tree, f"fixed point: the carry's tree changed after {after}"
    changed = sorted(set(signature(new)) ^ set(before))
    assert not changed, f"fixed point: {changed} after {after}"


def check_slots(s: Subject, *, batch: int = 3, steps: int = 3) -> None:
    """Law 4: a stream can be reset, taken out, copied to the host and put elsewhere; the others do
    not notice, bit for bit, and the moved stream goes on as if nothing had happened. So can its
    ``flush``."""
    step = s.jitted
    past, future = s.make_input(0, batch, steps), s.make_input(1, batch, steps)
    carry, _ = step(s.init_carry(batch), past, None)
    want_carry, want = step(carry, future, None)
    others = [i for i in range(batch) if i != 1]

    reset = put_stream(carry, 1, s.init_carry(1))
    got_carry, got = step(reset, future, None)
    want = parts((want_carry, want))
    bitwise("slots, reset", pick(parts((got_carry, got)), others), pick(want, others))
    _, fresh = step(s.init_carry(batch), future, None)
    bitwise("slots, the reset stream", pick(got, [1]), pick(fresh, [1]))

    # Streams 0 and 2 change places, and so do their frames.
    swap = lambda tree: pick(tree, [2, 1, 0])
    first, last = take_stream(carry, 0), take_stream(carry, 2)
    moved = put_stream(put_stream(carry, 0, last), 2, first)
    got_carry, got = step(moved, swap(future), None)
    got = parts((got_carry, got))
    same("slots, moved", swap(got), want, s.atol)
    bitwise("slots, beside a move", pick(got, [1]), pick(want, [1]))

    saved = jax.tree.map(jnp.asarray, jax.device_get(carry))
    bitwise("slots, through the host", parts(step(saved, future, None)), want)
    alone = step(take_stream(carry, 1), pick(future, [1]), None)
    same("slots, alone", parts(alone), pick(want, [1]), s.atol)

    if s.flush is None or not s.latency:
        return
    _, tail = s.flush(carry)
    _, got = s.flush(reset)
    bitwise("slots, flush beside a reset", pick(got, others), pick(tail, others))
    same("slots, flush of moved streams", swap(s.flush(moved)[1]), tail, s.atol)
    same("slots, flush alone", s.flush(take_stream(carry, 1))[1], pick(tail, [1]), s.atol)


def check_gaps(s: Subject, *, steps: int = 11, batch: int = 2, seeds: int = 3) -> None:
    """Law 5: an invalid frame, NaN or another one, is as if it never came: the carry and the
    outputs of the valid frames are those of the stream without it, however the frames are cut, and
    nothing becomes NaN. Where all are valid, ``valid`` changes nothing."""
    step = s.jitted
    for seed in range(seeds):
        x, other = (host(s.make_input(seed + i, batch, steps)) for i in (0, 50))
        rng = np.random.default_rng(seed)
        valid = rng.random((batch, steps)) < 0.6
        valid[:, seed % steps] = False
        valid[0, (seed + 1) % steps] = True

        def fill(what):
            def leaf(a, b):
                mask = valid.reshape(valid.shape + (1,) * (a.ndim - 2))
                # a 0-d array of that type, as NaN alone would widen it
                return np.where(mask, a, np.full((), what, a.dtype) if what and is_float(a) else b)

            return jax.tree.map(leaf, x, other)

        poisoned, mask = fill(jnp.nan), jnp.asarray(valid)
        start = s.init_carry(batch)
        carry, y = step(start, poisoned, mask)
        for name, a in named(parts((carry, y))):
            if is_float(a):
                assert bool(jnp.isfinite(a).all()), (
                    f"gaps: a NaN of an invalid frame came through to {name} {list(a.shape)}"
                )
        held, _ = step(start, poisoned, jnp.zeros_like(mask))
        bitwise("gaps, nothing but gaps", held, start)
        got = step(start, fill(None), mask)
        kept = lambda y: jax.tree.map(lambda a: a[valid], host(y))
        law = f"gaps, other frames in the place of invalid ones ({steps} frames)"
        same(law, parts((got[0], kept(got[1]))), parts((carry, kept(y))), s.atol)
        got = s.run(start, poisoned, [1] * steps, mask)
        law = f"gaps, single frames against {steps} at once"
        same(law, parts((got[0], kept(got[1]))), parts((carry, kept(y))), s.atol)
        for b in range(batch):
            keep = np.flatnonzero(valid[b])
            if not keep.size:
                continue
            dense = jax.tree.map(lambda a: a[b : b + 1, keep], x)
            want_carry, want = s.run(s.init_carry(1), dense, [1] * len(keep))
            got = jax.tree.map(lambda a: a[b : b + 1, keep], host(y))
            same(f"gaps, outputs of {len(keep)} of {steps} frames", got, want, s.atol)
            same(
                f"gaps, carry after {len(keep)} of {steps} frames",
                take_stream(carry, b),
                want_carry,
                s.atol,
            )
    start, x = s.init_carry(batch), s.make_input(0, batch, steps)
    every = step(start, x, jnp.ones((batch, steps), bool))
    plain = step(start, x, None)
    same("gaps, all frames valid against no valid", parts(every), parts(plain), s.atol)


def check_gradients(s: Subject, *, steps: int = 3, batch: int = 2) -> None:
    """The gradient of a loss is the same through the clip and through the stream: to the frames, or
    where those are integers to the first carry."""
    x = s.make_input(11, batch, steps)
    values, rebuild = _differentiable(x)
    first, restart = _differentiable(s.init_carry(batch))
    to = "frames" if values else "the first carry"
    if not (values or first):
        return

    def loss(given, lengths):
        carry = s.init_carry(batch) if values else restart(given)
        frames, at, total = rebuild(given) if values else x, 0, 0.0
        for n in lengths:
            carry, y = s.step(carry, cut(frames, at, at + n), None)
            at += n
            total += sum(jnp.sin(a.astype(jnp.float32)).sum() for a in floats(y))
        return jnp.asarray(total, jnp.float32)

    clip = jax.jit(jax.grad(lambda v: loss(v, [steps])))(values or first)
    stream = jax.jit(jax.grad(lambda v: loss(v, [1] * steps)))(values or first)
    scale = max(1.0, max(float(jnp.abs(a).max(initial=0.0)) for a in clip))
    stream, clip = ([a / scale for a in tree] for tree in (stream, clip))
    same(f"gradients to {to}, {steps} frames one by one against at once", stream, clip, s.atol)


def check_peek(s: Subject, *, steps: int = 2, batch: int = 2) -> None:
    """Law 7: reading ahead without keeping the new carry (peek) any number of times changes
    nothing; keeping it (commit) gives the same answer as the peek did. No state hides elsewhere:
    the step is the same program whenever it is traced, and leaves the carry it got alone."""
    step = s.jitted
    carry, _ = step(s.init_carry(batch), s.make_input(0, batch, steps), None)
    before = jax.tree.map(np.array, carry)
    peeks = [step(carry, s.make_input(seed, batch, 2), None)[1] for seed in (1, 2, 1)]
    bitwise("peek changes the carry", carry, before)
    bitwise("peek twice", peeks[0], peeks[2])
    bitwise("commit after peek", step(carry, s.make_input(1, batch, 2), None)[1], peeks[0])
    x, tree = s.make_input(1, batch, 2), jax.tree.structure(carry)

    def traced(carry, x):
        given = jax.tree.leaves(carry)
        after = s.step(carry, x, None)
        left = jax.tree.leaves(carry)
        kept = jax.tree.structure(carry) == tree and all(map(lambda a, b: a is b, given, left))
        assert kept, f"peek writes into the carry that it was given: {signature(carry)}"
        return after

    # a new function each time, as traces are kept by function
    programs = [jax.make_jaxpr(lambda c, x: traced(c, x))(carry, x) for _ in range(2)]
    texts = [re.sub(r"0x[0-9a-f]+", "", str(p)) for p in programs]
    assert texts[0] == texts[1], (
        "peek: the step traced twice gives two programs: state hides outside the carry"
    )
    bitwise("peek: constants of the step traced twice", programs[1].consts, programs[0].consts)


LAWS: tuple[Callable[..., None], ...] = (
    check_fixed_point,
    check_causality,
    check_chunking,
    check_scan,
    check_slots,
    check_gaps,
    check_latency,
    check_gradients,
    check_peek,
    check_endurance,
    check_year,
)


def verify_contract(subject: Subject, laws: Sequence[Callable[..., None]] = LAWS) -> None:
    """Runs every law; raises AssertionError naming the law that is broken, where and by how much
    (and what the module raised, where it raises)."""
    for law in laws:
        name = law.__name__.removeprefix("check_").replace("_", " ")
        try:
            law(subject)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"{name}: the module raised {type(error).__name__}: {error}"
            ) from error


__all__ = [
    "CHUNKS",
    "CLIPS",
    "LAWS",
    "Subject",
    "carry_bytes",
    "difference",
    "put_stream",
    "random_splits",
    "signature",
    "take_stream",
    "verify_contract",
]
