"""Batches of video streams: which lane plays which frames at which step, and a grain iterator.

A batch has B lanes. Each lane plays videos one after another, T frames per step, so that the next
batch goes on where this one ended and the student's carry stays warm. All of it follows from the
seed and the step alone: any step can be read at once, a restart sees what it would have seen, and
each host of a pod reads its own lanes of one and the same schedule.

    iterator = batches(source, lanes=8, frames=16, seed=0)
    batch = next(iterator)                   # dict, see `batches`
    state = iterator.get_state()             # small; goes into the checkpoint
"""

from __future__ import annotations

import bisect
import sys
import threading
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np

from .base import Clip, DataError, Source

Batch = dict[str, np.ndarray]


class Chunk(NamedTuple):
    """What one lane plays in one step."""

    visit: int  # number of this showing of a video; all chunks of a showing share it
    video: int
    start: int  # first frame
    frames: int  # of the video, 1 to T; the rest of the chunk is padding
    fresh: bool  # first chunk of the showing: the carry starts anew
    flip: bool  # this showing is mirrored


class _Epoch(NamedTuple):
    order: np.ndarray  # [V] videos
    offset: np.ndarray  # [V] frames left out at the start of order[i]
    flip: np.ndarray  # [V] bool


class Lanes:
    """The schedule of ``lanes`` lanes over videos of the given lengths, without end.

    The videos of all epochs stand in one row, each epoch a permutation of its own; lane l plays
    the l-th, (l + B)-th, (l + 2B)-th of the row. With ``jitter`` a showing leaves out its first
    0 to T - 1 frames, so that chunks begin at every phase of a video (never so many that a full
    chunk is lost), and the first showing of each lane begins at any of its chunks, so that the
    lanes do not change videos all at once.

    Args:
      lengths: frames per video, each at least 1.
      lanes: B, over all hosts.
      frames: T per chunk.
      flip: mirror half of the showings.

    Raises:
      DataError: no videos, a video without frames, ``lanes`` or ``frames`` below 1.
    """

    def __init__(
        self,
        lengths: list[int] | np.ndarray,
        lanes: int,
        frames: int,
        seed: int,
        *,
        flip: bool = False,
        jitter: bool = True,
    ):
        self.lengths = np.asarray(lengths, np.int64)
        if not self.lengths.size:
            raise DataError("no videos to train on: the source is empty; check its folder or split")
        if self.lengths.min() < 1:
            raise DataError(f"video {int(self.lengths.argmin())} of the source has no frames")
        for name, value in (("lanes", lanes), ("frames", frames)):
            if value < 1:
                raise DataError(f"{name}={value}: a batch needs at least 1")
        self.lanes, self.frames, self.seed, self.jitter = lanes, frames, seed, jitter
        self._flip = flip
        # Chunks played by lane l before the end of its n-th showing; grows as steps are asked for.
        self._ends: list[list[int]] = [[] for _ in range(lanes)]
        self._lock = threading.Lock()
        self._epoch = lru_cache(maxsize=256)(self._draw)

    def __call__(self, step: int, lane: int) -> Chunk:
        """What lane ``lane`` plays at step ``step``, both counted from 0."""
        ends = self._ends[lane]
        with self._lock:
            while not ends or ends[-1] <= step:
                offset, length = self._showing(lane, len(ends))[1:3]
                chunks = -(-(length - offset) // self.frames)
                ends.append((ends[-1] if ends else 0) + chunks)
            number = bisect.bisect_right(ends, step)
            within = step - (ends[number - 1] if number else 0)
            video, offset, length, flip = self._showing(lane, number)
        start = offset + within * self.frames
        count = min(self.frames, length - start)
        return Chunk(lane + number * self.lanes, video, start, count, within == 0, flip)

    def _showing(self, lane: int, number: int) -> tuple[int, int, int, bool]:
        """(video, frames left out, length, mirrored) of the number-th video that a lane plays."""
        epoch, at = divmod(lane + number * self.lanes, len(self.lengths))
        drawn = self._epoch(epoch)
        video, offset = int(drawn.order[at]), int(drawn.offset[at])
        length = int(self.lengths[video])
        if number == 0 and self.jitter:
            chunks = -(-(length - offset) // self.frames)
            rng = np.random.default_rng((self.seed, epoch, 1 + lane))
            offset += self.frames * int(rng.integers(chunks))
        return video, offset, length, bool(drawn.flip[at])

    def _draw(self, epoch: int) -> _Epoch:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.lengths))
        spare = np.clip(self.lengths[order] - self.frames + 1, 1, self.frames)
        offset = rng.integers(0, spare) * self.jitter
        flip = (rng.random(len(order)) < 0.5) & self._flip
        return _Epoch(order, offset, flip)


class Steps:
    """The batches of one host, by step: what grain reads from. Fields as :func:`batches` says."""

    def __init__(
        self, source: Source, schedule: Lanes, mine: range, swap: tuple[tuple[int, int], ...] = ()
    ):
        self.source, self.schedule, self.mine = source, schedule, mine
        self.swap = np.arange(len(source.classes))
        for i, j in swap:
            self.swap[[i, j]] = j, i

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, index: int) -> Batch:
        chunks = [self.schedule(int(index), lane) for lane in self.mine]
        clips = [self._clip(chunk) for chunk in chunks]
        batch = {name: np.stack([getattr(c, name) for c in clips]) for name in Clip._fields}
        batch["fresh"] = np.asarray([c.fresh for c in chunks])
        count = np.asarray([c.frames for c in chunks])
        batch["valid"] = np.arange(self.schedule.frames) < count[:, None]
        extras = [self._extras(chunk) for chunk in chunks]
        batch |= {name: np.stack([e[name] for e in extras]) for name in extras[0]}
        batch["visit"] = np.asarray([c.visit % 2**31 for c in chunks], np.int32)
        return batch

    def _extras(self, chunk: Chunk) -> Batch:
        found = self.source.extras(chunk.video, chunk.start, chunk.frames)
        if found and chunk.flip:
            raise DataError("a teacher's kept answers do not follow flip: use Mirrored instead")
        more = self.schedule.frames - chunk.frames
        return {n: np.pad(a, ((0, more), *((0, 0),) * (a.ndim - 1))) for n, a in found.items()}

    def _clip(self, chunk: Chunk) -> Clip:
        clip = self.source.read(chunk.video, chunk.start, chunk.frames)
        if len(clip.frames) != chunk.frames:
            raise DataError(
                f"{self.source.videos[chunk.video]} gave {len(clip.frames)} of {chunk.frames} "
                f"frames from frame {chunk.start} on: it is shorter than it was"
            )
        if chunk.flip:
            clip = mirror(clip, self.swap)
        if chunk.frames < self.schedule.frames:
            clip = pad(clip, self.schedule.frames)
        return clip


def mirror(clip: Clip, swap: np.ndarray | None = None) -> Clip:
    """The clip seen in a mirror. ``swap`` [C]: the class that each class becomes."""
    boxes = np.stack(
        [1 - clip.boxes[..., 2], clip.boxes[..., 1], 1 - clip.boxes[..., 0], clip.boxes[..., 3]], -1
    )
    boxes = np.where(clip.box_valid[..., None], boxes, clip.boxes).astype(clip.boxes.dtype)
    labels = clip.labels
    if swap is not None and len(swap) == labels.shape[-1]:
        labels = labels[..., swap]
    return clip._replace(frames=clip.frames[:, :, ::-1], boxes=boxes, labels=labels)


def pad(clip: Clip, frames: int) -> Clip:
    """The clip with its last picture held up to ``frames`` frames, without boxes or labels there.

    A held picture keeps the activations of the padding ordinary; the loss never sees them.
    """
    more = frames - len(clip.frames)
    held = np.broadcast_to(clip.frames[-1:], (more, *clip.frames.shape[1:]))
    zeros = lambda z: np.concatenate([z, np.zeros((more, *z.shape[1:]), z.dtype)])
    return Clip(np.concatenate([clip.frames, held]), *(zeros(z) for z in clip[1:]))


def batches(
    source: Source,
    lanes: int,
    frames: int,
    seed: int,
    *,
    host: int = 0,
    hosts: int = 1,
    start: int = 0,
    flip: bool = False,
    swap: tuple[tuple[int, int], ...] = (),
    jitter: bool = True,
    threads: int = 2,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Endless batches of this host, read ahead by threads.

    Each is a dict of arrays with L = lanes / hosts lanes: the fields of
    :class:`~streamzoo.train.data.base.Clip` with a leading L axis, and ``fresh`` [L] bool (a video
    begins: reset this lane's carry first), ``valid`` [L, T] bool (False: padding after a video's
    end), ``visit`` [L] int32 (the same for all chunks of one showing of a video, so that an
    augmentation seeded by it stays the same while the carry is warm).

    Args:
      source: where the clips come from; its ``read`` is called from several threads.
      lanes: B over all hosts; host h has lanes h * B / hosts and on.
      frames: T per batch.
      start: the step to begin with. ``set_state`` of the iterator does the same, from a checkpoint.
      flip: mirror half of the showings of a video.
      swap: pairs of classes that a mirror exchanges, e.g. walking left and right.
      jitter: see :class:`Lanes`.
      threads, prefetch: batches read at once, and kept ready.

    Raises:
      DataError: an empty source, or lanes that the hosts cannot share evenly.
    """
    if not len(source):
        raise DataError(f"{type(source).__name__} has no videos to train on: {_why(source)}")
    if hosts < 1 or not 0 <= host < hosts:
        raise DataError(f"host={host} of hosts={hosts}: hosts are counted from 0")
    if lanes < hosts or lanes % hosts:
        near = max(1, round(lanes / hosts)) * hosts
        raise DataError(f"lanes={lanes} cannot be shared by {hosts} hosts evenly; {near} can")
    classes = range(len(source.classes))
    for pair in swap:
        if len(pair) != 2 or not all(i in classes for i in pair):
            raise DataError(f"swap={pair}: give pairs of class numbers below {len(classes)}")
    lengths = [source.length(video) for video in range(len(source))]
    schedule = Lanes(lengths, lanes, frames, seed, flip=flip, jitter=jitter)
    each = lanes // hosts
    steps = Steps(source, schedule, range(host * each, (host + 1) * each), swap)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    iterator = iter(grain.MapDataset.source(steps).to_iter_dataset(options))
    if start:
        iterator.set_state({"next_index": start})
    return iterator


def _why(source: Source) -> str:
    skipped = getattr(source, "skipped", {})
    if not skipped:
        return "check its folder or split"
    name, reason = next(iter(skipped.items()))
    return f"all {len(skipped)} were skipped, e.g. {name}: {reason}"
