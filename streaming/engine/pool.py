"""A pool of slots that runs any few of its streams as one padded batch."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import looks_across
from ..slim import slim
from ..slots import SlotError, Slots
from ..step import Step
from ..variants import Variant, shrunk
from .costs import Costs


def _gather(pool, fresh, index):
    """Rows of the pool [slots, ...] by index [bucket]; beyond the last slot a fresh stream's."""

    def rows(a, new):
        inside = (index < a.shape[0]).reshape(-1, *[1] * (a.ndim - 1))
        return jnp.where(inside, jnp.take(a, index, axis=0, mode="clip"), new)

    return jax.tree.map(rows, pool, fresh)


def _scatter(pool, index, rows):
    """Rows back into the pool; those beyond the last slot go nowhere."""
    return jax.tree.map(lambda a, b: a.at[index].set(b, mode="drop"), pool, rows)


_rows = jax.jit(_gather)
_back = jax.jit(_scatter, donate_argnums=0)


def bucket_sizes(model: Any, slots: int, wanted: Iterable[int] | None = None) -> tuple[int, ...]:
    """Batch sizes to compile: ``wanted``, or 1, 2, 4, ... and ``slots`` itself.

    A model that looks across streams (``cross_stream``) always has all of them in its batch.

    Raises:
      ValueError: a size that is not from 1 to ``slots``, or not ``slots`` for such a model.
    """
    together = looks_across(model)
    if wanted is None:
        powers = {1 << k for k in range(slots.bit_length())} & set(range(slots))
        wanted = {slots} if together else powers | {slots}
    sizes = tuple(sorted(set(wanted)))
    if not sizes or sizes[0] < 1 or sizes[-1] > slots:
        raise ValueError(f"buckets {sizes}: batch sizes from 1 to the {slots} slots")
    if together and sizes != (slots,):
        raise ValueError(
            f"buckets {sizes}: {type(model).__name__} looks across streams and needs all of them "
            f"in every batch; give ({slots},), or leave buckets out"
        )
    return sizes


class Pool(Slots):
    """Slots whose streams run ``bucket`` at a time, every bucket compiled ahead.

    The step works on copies of its streams' rows: if it raises, no stream has moved. A bucket
    as large as the pool keeps every stream at its own row, with the idle ones there but not
    valid: models that look across streams have that one and no other, and are told which rows
    hold a stream (``active``).

    All calls but :meth:`check` belong to one thread.

    Args:
      variants: other ways to compute the step, by number from 1 on; 0 is ``step`` itself.
    """

    def __init__(
        self,
        step: Step,
        size: int,
        buckets: Iterable[int],
        frame_shape: tuple[int, int] | None = None,
        variants: Sequence[Variant] = (),
    ):
        super().__init__(step, size, frame_shape)
        self.buckets = bucket_sizes(step.model, size, buckets)
        self.variants = (Variant(step, self.frame_shape), *variants)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._names

    def release(self, name: Hashable) -> None:
        """Frees a stream's slot without a copy of its carry. Unknown names are ignored."""
        self._names.pop(name, None)

    def rebuild(self) -> None:
        """All slots free, on new buffers: after a step that took the pool down with it."""
        self._names.clear()
        self.carry = self._step.init_carry(self.size, self.frame_shape)

    def alive(self) -> bool:
        """Waits for the pool; False if a step that wrote it has failed."""
        try:
            jax.block_until_ready(self.carry)
            return True
        except Exception:
            return False

    def warm(self) -> None:
        """Compiles what admits a stream and what takes a snapshot, while there are no streams:
        later the others would wait for the compiler."""
        if self._names:
            raise SlotError("a pool is warmed before its first stream")
        self._write(0, self._take(self.carry, np.int32(0)))

    def launch(
        self,
        names: Sequence[Hashable],
        frames: Sequence[np.ndarray],
        bucket: int,
        elapsed: Sequence[int] | None = None,
        variant: int = 0,
    ) -> tuple[Any, list[int]]:
        """Starts a step of some streams and does not wait for it.

        Args:
          names: at most ``bucket`` streams, all different and admitted.
          frames: uint8 [h, w, 3] of each, as ``Framing`` gives it.
          elapsed: of each, frame intervals since its last one; None: 1.
          variant: how it is computed, by number.

        Returns:
          (output on the device, leaves [bucket, 1, ...]; the row of each name). The copy of the
          output to the host has started.
        """
        slots = [self._index(name) for name in names]
        if bucket == self.size:
            rows, index = slots, np.full(bucket, self.size, np.int32)
            for slot in self._names.values():
                index[slot] = slot
        else:
            rows = list(range(len(slots)))
            index = np.full(bucket, self.size, np.int32)
            index[: len(slots)] = slots
        batch = np.zeros((bucket, 1, *self.frame_shape, 3), np.uint8)
        valid = np.zeros((bucket, 1), bool)
        for row, frame in zip(rows, frames, strict=True):
            self._framing.put(batch[row, 0], frame)
            valid[row, 0] = True
        gone = None if elapsed is None else dict(zip(rows, elapsed, strict=True))
        return self._run(index, batch, valid, self._extras(bucket, gone), variant), rows

    def _run(self, index, batch, valid, extras, variant: int = 0) -> Any:
        step, size = self.variants[variant]
        batch = jax.device_put(shrunk(batch, size))  # the copy goes on while earlier steps compute
        carry, out = step(_rows(self.carry, self._fresh, index), batch, valid, **extras)
        self.carry = _back(self.carry, index, carry)
        out = slim(out)
        for leaf in jax.tree.leaves(out):
            leaf.copy_to_host_async()
        return out

    def measure(self, repeats: int = 8, variant: int = 0) -> Costs:
        """Compiles every bucket of a variant and times it on random frames; no stream notices.

        Seconds from the frames on the host to the answer on the host.
        """
        rng, seconds = np.random.default_rng(0), {}
        for bucket in self.buckets:
            index = np.full(bucket, self.size, np.int32)
            shape = (bucket, 1, *self.frame_shape, 3)
            frames = rng.integers(0, 256, shape, np.uint8)
            times, valid = [], np.ones((bucket, 1), bool)
            # all at once, the most that a model across streams has to do
            extras = {name: np.ones_like(a) for name, a in self._extras(bucket).items()}
            for _ in range(repeats + 1):
                start = time.perf_counter()
                jax.device_get(self._run(index, frames, valid, extras, variant))
                times.append(time.perf_counter() - start)
            seconds[bucket] = times[1:]  # the first one compiled
        return Costs(seconds)
