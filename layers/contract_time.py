"""The laws that need time to break: what is declared of latency, and what long streams do."""

from __future__ import annotations

import functools
import math
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
    gaps_between,
    host,
    is_integer,
    join,
    named,
    parts,
    pick,
    same,
    signature,
    steps_of,
)

# A change of an output is one where it is more than NONE of the largest change that a frame makes,
# and surely one from SURE on: between the two nothing is claimed.
NONE, SURE = 1e-6, 1e-3


def _changes(y: Tree) -> np.ndarray:
    """y [R, T, ...], whose last stream is the base -> the largest change [R - 1, T]."""
    tops = []
    for a in jax.tree.leaves(y):
        gap = gaps_between(a[:-1], np.broadcast_to(np.asarray(a[-1:]), a[:-1].shape))
        tops.append(gap.reshape(*gap.shape[:2], -1).max(axis=-1, initial=0.0))
    return np.max(tops, axis=0)


def _one_frame_each(s: Subject, seed: int, steps: int) -> Tree:
    """Streams [steps + 1, steps, ...] of the same frames, of which stream i has another frame i."""
    base, other = host(s.make_input(seed, 1, steps)), host(s.make_input(seed + 100, 1, steps))

    def mixed(a, b):
        a, b = (np.repeat(z, steps + 1, axis=0) for z in (a, b))
        swap = np.concatenate([np.eye(steps, dtype=bool), np.zeros((1, steps), bool)])
        return np.where(swap.reshape(swap.shape + (1,) * (a.ndim - 2)), b, a)

    return jax.tree.map(mixed, base, other)


def _flush(s: Subject, carry: Tree, like: Tree, when: str) -> Tree:
    """The tail of ``flush``, held against the outputs ``like`` of the step."""
    assert s.flush is not None
    after, tail = s.flush(carry)
    law = f"latency, flush {when}"
    one, two = jax.tree.structure(tail), jax.tree.structure(like)
    assert one == two, f"{law}: its outputs are {one} and those of the step {two}"
    for (name, a), (_, b) in zip(named(tail), named(like), strict=True):
        assert a.ndim > 1 and a.shape[1] == s.latency, (
            f"{law}: flush gave {a.shape[1] if a.ndim > 1 else 'no'} outputs, {name}"
            f" {list(a.shape)}; latency is {s.latency}"
        )
        want = (b.shape[0], s.latency, *b.shape[2:])
        assert a.shape == want, f"{law}: {name} is {list(a.shape)} and should be {list(want)}"
        assert a.dtype == b.dtype, f"{law}: {name} is {a.dtype}, the step gives {b.dtype}"
    assert signature(after) == signature(carry), (
        f"{law}: it changes the carry's leaves {set(signature(after)) ^ set(signature(carry))}"
    )
    return tail


def check_latency(s: Subject, *, steps: int = 11, batch: int = 2) -> None:
    """Law 6: the output at t is of frame t - latency, and ``flush`` gives the rest.

    1. Outputs after the warm-up plus ``flush`` are one per frame, however the frames were cut.
    2. Each depends on the frame that it answers: nothing is lost, nothing changes places.
    3. An entry of ``flush`` depends on all frames that the stream's own answer would depend on,
       and is that answer where no later frame has a say in it.
    4. A stream shorter than the latency, or without frames, can be ended too.

    Where answers depend on all frames, before and after, their order in ``flush`` cannot be told.
    """
    late = s.latency
    assert isinstance(late, int | np.integer) and late >= 0, f"latency: {late!r}, not frames >= 0"
    steps = max(steps, 2 * late + 3)
    if late:
        assert s.flush is not None, f"latency: {late} frames are declared but there is no flush"
        _check_cuts(s, steps, batch)
    elif s.flush is not None:
        carry, y = s.run(s.init_carry(batch), s.make_input(5, batch, steps), [1] * 2)
        _, tail = s.flush(carry)
        left = steps_of(tail) if jax.tree.leaves(tail) else 0
        assert not left, f"latency: 0 frames are declared and flush gave {left} outputs"
    own, shown = [], []
    for seed in (5, 6):
        x = _one_frame_each(s, seed, steps)
        carry, y = s.jitted(s.init_carry(steps + 1), x, None)
        tail = _flush(s, carry, y, f"after {steps} frames") if late else cut(y, 0, 0)
        answers = cut(join([y, tail]), late, steps + late)
        change = _changes(answers)  # [changed frame, answered frame]
        top = float(np.max(np.where(np.isfinite(change), change, 0.0), initial=0.0))
        assert top > 0, f"latency: no output of {steps} frames depends on any frame"
        own.append(np.diagonal(change) / top)
        shown.append(change / top)
        if late:
            _check_tail(s, carry, tail, change[:, steps - late :], seed, steps)
    sure = np.min(own, axis=0)[: steps - late] > SURE
    if not (np.max(own, axis=0)[1 : steps - late] > NONE).any():
        lags = [
            int(lag) + late
            for lag in range(1 - steps, steps)
            if (np.diagonal(np.max(shown, axis=0)[:, : steps - late], lag) > SURE).sum() > 1
        ]
        raise AssertionError(
            f"latency: {late} frames are declared, but no output depends on the frame {late}"
            f" before it; outputs depend on the frames {lags or 'none'} before them"
        )
    if late and sure.all():
        for k, seen in enumerate(np.max(own, axis=0)[steps - late :]):
            assert seen > NONE, (
                f"latency, flush: entry {k} of {late} does not depend on frame {steps - late + k}"
                f" of {steps}, which it answers: lost, or not in order"
            )
        _check_short(s)


def _check_cuts(s: Subject, steps: int, batch: int) -> None:
    x = s.make_input(5, batch, steps)

    def whole(lengths):
        carry, y = s.run(s.init_carry(batch), x, lengths)
        tail = _flush(s, carry, y, f"after {lengths}")
        return join([cut(y, s.latency, steps), tail])

    want = whole([steps])
    assert steps_of(want) == steps, f"latency: {steps_of(want)} outputs for {steps} frames"
    same(f"latency, flush after [1] * {steps}", whole([1] * steps), want, s.atol)
    start = s.init_carry(batch)
    tail = _flush(s, start, cut(want, 0, 1), "before the first frame")
    for name, a in named(tail):
        assert bool(jnp.isfinite(a).all()), (
            f"latency, flush before the first frame: {name} {list(a.shape)} is not finite"
        )
    assert s.flush is not None
    bitwise("latency, flush twice", s.flush(start)[1], tail)


def _check_tail(
    s: Subject, carry: Tree, tail: Tree, change: np.ndarray, seed: int, steps: int
) -> None:
    """``tail`` against what the stream would have said, had more frames come."""
    late, rows = s.latency, steps + 1
    more = [s.make_input(seed + i, 1, late) for i in (200, 300)]
    more = [jax.tree.map(lambda a: np.repeat(a, rows, axis=0), host(x)) for x in more]
    goes_on = [s.jitted(carry, x, None)[1] for x in more]
    said = _changes(goes_on[0])
    top = max(float(np.max(said)), float(np.max(change)), 1e-30)
    for k in range(late):
        here = [pick(cut(y, k, k + 1), [steps]) for y in (*goes_on, tail)]
        steady = all(
            not gaps_between(a, b).any()  # a small say is one: the end of a stream is another frame
            for a, b in zip(*map(jax.tree.leaves, here[:2]), strict=True)
        )
        if steady:  # no later frame has a say in it
            same(
                f"latency, flush entry {k} of {late} against the stream that goes on",
                here[2],
                here[0],
                s.atol,
            )
        for frame in np.flatnonzero(said[:, k] > 10 * SURE * top):
            assert change[frame, k] > NONE * top, (
                f"latency, flush: entry {k} of {late} does not depend on frame {frame} of {steps};"
                f" the stream's own answer does"
            )


def _check_short(s: Subject) -> None:
    """One frame alone: its answer comes out of ``flush``."""
    x = _one_frame_each(s, 7, 1)  # two streams that differ in the frame
    carry, y = s.jitted(s.init_carry(2), x, None)
    tail = _flush(s, carry, y, "after 1 frame")
    change = float(_changes(cut(tail, s.latency - 1, s.latency)).max())
    assert change > 0, (
        f"latency, flush after 1 frame: the last of {s.latency} entries does not depend on it"
    )


def _blocks(s: Subject, frames: int, rows: int):
    """(frame number of the first, carries of one stream before ``rows`` frames, as a batch)."""
    carry = s.init_carry(1)
    for start in range(0, frames, rows):
        x = s.make_input(1000 + start, 1, rows)
        carry, before = s.walk(carry, x)
        yield start, jax.tree.map(lambda a: a[:, 0], before)


def _rows(s: Subject) -> int:
    """Carries that are held at once: 32, or fewer if they are large (256 MB)."""
    return int(np.clip(2**28 // max(1, carry_bytes(s.init_carry(1))), 1, 32))


def check_endurance(s: Subject, *, frames: int = 288, lags: int = 3) -> None:
    """Law 3, in a long stream: after any number of frames chunks still equal single frames, and
    what outputs depend on at first (their own frame and the ``lags`` before it, or as many as the
    latency) they depend on
    for ever: counters neither stop nor wrap, rings neither stand still nor lose their order.

    Laws about the first dozen frames cannot see what begins after 16, 100 or 256. All carries of
    one stream are tried as the streams of a batch. A module that by design forgets everything every
    n frames, n > 16, is held to it with fewer ``frames`` than that.
    """
    rows, taken = _rows(s), max(lags, s.latency + 1) + 1
    x, other = host(s.make_input(21, rows, taken)), host(s.make_input(22, rows, taken))
    changed = jax.tree.map(lambda a, b: np.concatenate([b[:, :1], a[:, 1:]], axis=1), x, other)
    seen = []
    for start, carries in _blocks(s, frames, rows):
        after, y = s.jitted(carries, x, None)
        law = f"endurance, after {start} to {start + rows} frames"
        ended = parts((after, y))
        for name, a in named(ended):
            nan = jnp.issubdtype(a.dtype, jnp.floating) and bool(jnp.isnan(a).any())
            assert not nan, f"{law}: {name} {list(a.shape)} is not a number"
        same(f"{law}: chunk of {taken}", parts(s.run(carries, x, [1] * taken)), ended, s.atol)
        _, moved = s.jitted(carries, changed, None)
        tops = []
        for a, b in zip(jax.tree.leaves(y), jax.tree.leaves(moved), strict=True):
            gap = gaps_between(b, a)
            tops.append(gap.reshape(*gap.shape[:2], -1).max(axis=-1, initial=0.0))
        seen.append(np.max(tops, axis=0))  # [rows, lag]
    change = np.concatenate(seen)
    first, until = 8, min(24, len(change))
    for lag in range(taken):
        early = change[first:until, lag]
        if not early.size or early.min() <= SURE * max(early.max(), s.atol):
            continue  # it does not depend on it every time: nothing is claimed
        lost = np.flatnonzero(change[first:, lag] <= NONE * early.min()) + first
        assert not lost.size, (
            f"endurance: the output of frame {lost[0] + lag} does not depend on frame {lost[0]}"
            f" ({lag} before it); those of frames {first + lag} to {until + lag} do. A counter that"
            " stops or wraps, a ring that stands still?"
        )


def _walked(s: Subject, carry: Tree, rows: int) -> tuple[Tree, Tree]:
    """320 frames on: (carry, the carries before each of the first ``rows``)."""
    carry, first = s.walk(carry, s.make_input(40, 1, rows))
    for i in range(320 // rows - 1):
        carry, _ = s.walk(carry, s.make_input(41 + i, 1, rows))
    return carry, first


def _counters(s: Subject, carries: Tree, warm: Tree) -> tuple[dict[str, Any], bool]:
    """(leaves that count frames, whether all of the memory has been written).

    ``carries``: before each of the first frames, [T, ...]; ``warm``: after many frames [1, ...].
    """
    counts, full = {}, True
    start = s.init_carry(1)
    for (name, a), (_, z), (_, b) in zip(named(carries), named(warm), named(start), strict=True):
        a, z, b = (np.asarray(v, np.float64) for v in (a, z, b))
        few = a[:5].reshape(min(5, len(a)), -1)
        if few.size and len(few) > 3 and (few - few[:1] == np.arange(len(few))[:, None]).all():
            counts[name] = None
        elif z.ndim > 1:
            for axis in range(1, z.ndim):
                rest = tuple(i for i in range(z.ndim) if i != axis)
                full &= not (z == b).all(axis=rest).any()
    return counts, full


def _period(carry: Tree, least: int) -> int:
    """A multiple of ``least`` and, while it fits a year, of every axis of the carry: rings."""
    period = least
    for size in sorted({n for a in jax.tree.leaves(carry) for n in a.shape[1:] if n > 1}):
        if math.lcm(period, size) <= YEAR:
            period = math.lcm(period, size)
    return period


YEAR = 60 * 3600 * 24 * 365  # frames at 60 per second; 88 % of what an int32 holds


def check_year(
    s: Subject, *, warm: int | None = None, period: int = 720_720, batch: int = 1
) -> None:
    """Law 3: counters moved on by a year of 60 fps frames change nothing but themselves.

    ``warm`` frames fill the memory first; ``period`` must be a multiple of every ring's size. With
    None counters are looked for (leaves that grow by one per frame), must be int32, and are moved
    if the memory is full after 320 frames; a module without any passes.
    """
    if warm is not None:
        step = s.jitted
        carry, _ = step(s.init_carry(batch), s.make_input(1, batch, warm), None)
        assert any(map(is_integer, jax.tree.leaves(carry))), (
            "year: this carry has no counters; the check would be empty"
        )
        _moved(s, carry, period, warm // 2, None)
        return
    rows = _rows(s)
    if rows < 8:  # a carry this large is not held several times
        return
    start = s.init_carry(1)
    carry, first = _walked(s, start, rows)
    counts, full = _counters(s, first, carry)
    limits = {"float32": 2**24, "float16": 2**11, "bfloat16": 2**8, "int8": 2**7, "int16": 2**15}
    for name, a in named(carry):
        if name in counts:
            assert str(a.dtype) == "int32", (
                f"year: {name} {list(a.shape)} counts frames in {a.dtype}, which ends at"
                f" {limits.get(str(a.dtype), 'some number')}; use int32"
            )
    if counts and full:
        period = _period(carry, period)
        try:
            _moved(s, carry, period, 160, counts)
        except AssertionError:
            # a memory may hold positions, as keys that were turned when they came: those move
            # only with a stream that counts from later on, until its memory is full again
            for by in (YEAR // period * period, max(1, YEAR // 3 // period) * period):
                later = {name: a + by if name in counts else a for name, a in named(start)}
                moved = jax.tree.unflatten(jax.tree.structure(start), [*later.values()])
                x = s.make_input(2, 1, 5)
                got, want = (s.jitted(c, x, None)[1] for c in (_walked(s, moved, rows)[0], carry))
                same(f"year, counters that begin at {by}", got, want, s.atol)


def _moved(s: Subject, carry: Tree, period: int, least: int, counts: dict | None) -> None:
    """The carry against itself with what counts, or is a time of ``least`` or more, later: by a
    year and by less, as a number that overflows may come round to the right one."""
    now = [int(a.max()) for name, a in named(carry) if counts and name in counts]

    def later(by, path, a):
        if not is_integer(a):
            return a
        if counts is None:
            return a + by * (a >= least)
        if (jax.tree_util.keystr(path) or "leaf") in counts:
            return a + by
        times = a.dtype == jnp.int32 and any(abs(int(a.max()) - n) < 9 for n in now)
        return a + by * (a >= least) if times else a

    x = s.make_input(2, jax.tree.leaves(carry)[0].shape[0], 5)
    want = s.jitted(carry, x, None)[1]
    for part in (1.0, 0.83, 0.51, 0.29):
        by = max(1, int(part * YEAR) // period) * period
        old = jax.tree_util.tree_map_with_path(functools.partial(later, by), carry)
        got = s.jitted(old, x, None)[1]
        same(f"year, counters moved on by {by} frames", got, want, s.atol)
