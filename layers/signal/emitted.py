"""What a layer with a rate of its own gives: frames, and with which input each became complete.

A signal layer maps ``(carry, x [B, T, ...], valid [B, T] or None)`` to ``(carry, Emitted)`` for
any T >= 1. How many frames T inputs complete depends on where in its stride a stream stands, so
the F frames of a chunk are as many as there can be, and ``valid`` says which of them are there. An
input that is not valid leaves no trace: it makes no frame and no neighbour of it invalid.

Every layer counts: ``emitted(n)`` frames are there after n inputs of a stream, ``length(n)`` when
it has ended. From the two follow latency and what waits where branches meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..gaps import compact, window_at, zero_invalid
from ..streaming import Carry, DType

Array = jax.Array


@exportable
class Emitted(NamedTuple):
    """Frames of one chunk, in order; those that are not valid hold zeros."""

    x: Array  # [B, F, ...]
    valid: Array  # [B, F] bool
    at: Array  # [B, F] int32, the input of the chunk that completed it, 0 .. T - 1


@runtime_checkable
class Signal(Protocol):
    """A streaming layer that may have another rate than its input.

    ``lookahead``: inputs after the one that a frame stands for, until it is final.
    ``delay(d)``: the same as the offset of a stream that answers in whole blocks of its stride, in
    output frames, behind layers which are ``d`` late (the reckoning of cached_conv, by A. Caillon
    and P. Esling, "Streamable Neural Audio Synthesis With Non-Causal Convolutions", arXiv
    2204.07064).
    """

    @property
    def lookahead(self) -> Fraction: ...

    @property
    def rate(self) -> Fraction: ...

    def emitted(self, count: int) -> int: ...

    def length(self, count: int) -> int: ...

    def delay(self, late: int = 0) -> int: ...

    def init_carry(self, batch: int) -> Carry: ...


def whole(x: Array, valid: Array | None) -> Emitted:
    """An input as if a layer had emitted it: every frame with itself."""
    at = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    here = jnp.ones(x.shape[:2], bool) if valid is None else valid
    return Emitted(zero_invalid(x, valid), here, at)


def joined(parts: Sequence[Emitted]) -> Emitted:
    """Frames one after another; what comes later is taken to come with the last input."""
    return Emitted(*(jnp.concatenate(a, axis=1) for a in zip(*parts, strict=True)))


class FrameForFrame(nn.Module):
    """A signal layer that gives one frame for each of its input, at once: nothing waits in it."""

    lookahead = Fraction(0)
    rate = Fraction(1)
    latency = 0

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return count

    @nn.nowrap
    def length(self, count: int) -> int:
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return late

    def flush(self, carry: Carry) -> tuple[Carry, None]:
        """Nothing waits."""
        return carry, None


class Each(FrameForFrame):
    """A function, or a module, of single frames: [B, F, ...] -> [B, F, ...]."""

    of: Callable[[Array], Array]

    @nn.nowrap
    def init_carry(self, batch: int) -> tuple[()]:
        del batch
        return ()

    def __call__(self, carry: tuple[()], x: Array, valid: Array | None = None):
        given = whole(x, valid)
        return carry, given._replace(x=zero_invalid(self.of(given.x), valid))


class Series(nn.Module):
    """Signal layers one after another: strides multiply, look-aheads add up at their own rates.

    A frame that is not there yet is a gap for the next layer, so a stream equals the composition
    of clips from its first frame, the zeros around each of them included.
    """

    layers: tuple[Any, ...]

    @property
    def rate(self) -> Fraction:
        return math.prod((layer.rate for layer in self.layers), start=Fraction(1))

    @property
    def lookahead(self) -> Fraction:
        total, rate = Fraction(0), Fraction(1)
        for layer in self.layers:
            total += layer.lookahead / rate
            rate *= layer.rate
        return total

    @property
    def latency(self) -> int:
        """Inputs until all that an input brings is final."""
        return math.ceil(self.lookahead)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        for layer in self.layers:
            count = layer.emitted(count)
        return count

    @nn.nowrap
    def length(self, count: int) -> int:
        for layer in self.layers:
            count = layer.length(count)
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        for layer in self.layers:
            late = layer.delay(late)
        return late

    @nn.nowrap
    def init_carry(self, batch: int) -> tuple[Carry, ...]:
        return tuple(layer.init_carry(batch) for layer in self.layers)

    def __call__(self, carry: tuple[Carry, ...], x: Array, valid: Array | None = None):
        """x [B, T, ...], valid [B, T] -> (carry, Emitted)."""
        given, carries = whole(x, valid), []
        for i, (layer, state) in enumerate(zip(self.layers, carry, strict=True)):
            state, out = layer(state, given.x, given.valid if i else valid)
            given = out._replace(at=jnp.take_along_axis(given.at, out.at, axis=1))
            carries.append(state)
        return tuple(carries), given

    def flush(self, carry: tuple[Carry, ...]) -> tuple[tuple[Carry, ...], Emitted | None]:
        """The frames that were waiting for more; None if there never are any."""
        carries, rest = [], None
        for layer, state in zip(self.layers, carry, strict=True):
            parts = []
            if rest is not None:
                state, out = layer(state, rest.x, rest.valid)
                parts.append(out)
            state, last = layer.flush(state)
            parts += [] if last is None else [last]
            rest = joined(parts) if parts else None
            carries.append(state)
        return tuple(carries), rest


def added(first: Array, *others: Array) -> Array:
    """Their sum."""
    return sum(others, start=first)


class Parallel(nn.Module):
    """Branches of one input whose frames are joined number by number, whenever each comes.

    Attributes:
      branches: signal layers with the same number of frames in the end.
      features: the shape of a branch's frame.
      join: of as many arrays as there are branches; their sum by default.
    """

    branches: tuple[Any, ...]
    features: tuple[int, ...]
    join: Callable[..., Array] = added
    dtype: DType = jnp.float32

    @property
    def rate(self) -> Fraction:
        return self.branches[0].rate

    @property
    def lookahead(self) -> Fraction:
        return max(branch.lookahead for branch in self.branches)

    @property
    def latency(self) -> int:
        return math.ceil(self.lookahead)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return min(branch.emitted(count) for branch in self.branches)

    @nn.nowrap
    def length(self, count: int) -> int:
        return min(branch.length(count) for branch in self.branches)

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return max(branch.delay(late) for branch in self.branches)

    @property
    def waiting(self) -> list[int]:
        """Frames of each branch that can wait for another's."""
        period = math.lcm(*(branch.rate.denominator for branch in self.branches))
        counts = range(3 * (self.latency + period) + 1)
        ahead = lambda b: max(b.emitted(n) - self.emitted(n) for n in counts)
        return [ahead(branch) for branch in self.branches]

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        queues = tuple(jnp.zeros((batch, n, *self.features), self.dtype) for n in self.waiting)
        counts = tuple(jnp.zeros((batch,), jnp.int32) for _ in self.branches)
        carries = tuple(branch.init_carry(batch) for branch in self.branches)
        return {"branches": carries, "queues": queues, "counts": counts}

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array | None = None):
        """x [B, T, ...], valid [B, T] -> (carry, Emitted)."""
        pairs = zip(self.branches, carry["branches"], strict=True)
        carries, outs = zip(*(branch(state, x, valid) for branch, state in pairs), strict=True)
        return self._meet(carry, carries, outs)

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted | None]:
        """The frames that were waiting for more; None if there never are any."""
        pairs = zip(self.branches, carry["branches"], strict=True)
        carries, outs = zip(*(branch.flush(state) for branch, state in pairs), strict=True)
        if all(out is None for out in outs):
            return {**carry, "branches": carries}, None
        like = next(out for out in outs if out is not None)
        nothing = Emitted(*(a[:, :0] for a in like))
        return self._meet(carry, carries, [nothing if out is None else out for out in outs])

    def _meet(self, carry: dict[str, Carry], carries: Any, outs: Sequence[Emitted]):
        lines, times, totals = [], [], []
        for queue, count, out in zip(carry["queues"], carry["counts"], outs, strict=True):
            # those that waited are the first ``count`` of the queue
            held = jnp.arange(queue.shape[1])[None] < count[:, None]
            dense = compact(
                jnp.concatenate([queue, out.x.astype(queue.dtype)], axis=1),
                jnp.concatenate([held, out.valid], axis=1),
            )
            at = jnp.concatenate([jnp.zeros(held.shape, jnp.int32), out.at], axis=1)
            lines.append(dense.x)
            times.append(jnp.take_along_axis(at, dense.order, axis=1))
            totals.append(dense.fresh)
        frames = max(line.shape[1] for line in lines)
        ready = jnp.min(jnp.stack(totals), axis=0)
        here = jnp.arange(frames)[None] < ready[:, None]
        lines, times = ([_longer(a, frames) for a in group] for group in (lines, times))
        y = zero_invalid(self.join(*lines), here)
        at = jnp.max(jnp.stack(times), axis=0)
        sizes = [queue.shape[1] for queue in carry["queues"]]
        queues = tuple(
            window_at(_longer(line, frames + n), ready, n)
            for line, n in zip(lines, sizes, strict=True)
        )
        counts = tuple(total - ready for total in totals)
        after = {"branches": carries, "queues": queues, "counts": counts}
        return after, Emitted(y, here, jnp.where(here, at, 0))


def _longer(x: Array, frames: int) -> Array:
    """x [B, F, ...] with zeros behind, up to ``frames``."""
    return jnp.pad(x, [(0, 0), (0, frames - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
