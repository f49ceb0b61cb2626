"""Detections of single frames joined to tracks, in a carry of constant size.

    tracker = BoxTracker(TrackerConfig())
    carry = tracker.init_carry(batch)
    carry, tracks = tracker(carry, boxes, scores, labels, there)     # [B, T, K, ...]

Sources: Zhang et al., "ByteTrack" (arXiv 2110.06864, algorithm 1): first the sure detections, then
the unsure ones for tracks that are left. Aharon et al., "BoT-SORT" (arXiv 2206.14651): the filter
of width and height, and appearance beside overlap. Without labels and appearance, and with the
same thresholds, the associations are those of ``trackers.BoTSORTTracker`` (Apache-2.0) without
camera motion.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers import box_kalman as kalman
from ...layers.assignment import assign
from ...layers.exportable import exportable
from ...layers.gaps import hold, zero_invalid
from ..detect.boxes import overlap
from ..ranges import Checked, Count, Share, Whole
from .appearance import unit
from .outputs import Tracks

Array = jax.Array
LAST_ID = np.int32(2**31 - 1)


@dataclasses.dataclass(frozen=True)
class TrackerConfig(Checked):
    """Shapes and thresholds of a tracker. Times are in frames.

    Attributes:
      slots: S, tracks at once, lost ones included. When all are taken, a new track takes the
        place of the one lost the longest; if none is lost, it is not begun.
      high: a detection with at least this score may join any track.
      low: one between ``low`` and ``high`` may go on with a track seen in the last frame.
      begin: an unmatched detection with at least this score begins a track.
      confirm: detections that a track needs before it gets an id, one after the other. In the
        first frame of a stream one is enough.
      keep: frames for which a confirmed track that is not seen is remembered.
      coast: frames for which such a track is still answered, at its predicted place.
      match_high: overlap times score that a sure detection and a track need.
      match_low: overlap that an unsure detection and a track need.
      match_new: overlap times score that a sure detection and an unconfirmed track need.
      groups: classes (label numbers) that are tracked; labels of one group may change into each
        other, e.g. car and truck. () tracks every detection and ignores labels.
      features: F, channels of the appearance features; 0 for none.
      near: overlap from which on appearance counts.
      alike: cosine similarity from which on two features may be one object.
      memory: share of the old in a track's features after a detection.
    """

    slots: Count = 64
    high: Share = 0.6
    low: Share = 0.1
    begin: Share = 0.7
    confirm: Count = 2
    keep: Whole = 30
    coast: Whole = 0
    match_high: Share = 0.2
    match_low: Share = 0.5
    match_new: Share = 0.3
    groups: tuple[tuple[Whole, ...], ...] = ()
    features: Whole = 0
    near: Share = 0.5
    alike: Share = 0.5
    memory: Share = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}; give at most high")
        if self.begin < self.high:
            raise ValueError(f"begin={self.begin} is below high={self.high}; give at least high")
        if self.coast > self.keep:
            raise ValueError(f"coast={self.coast} is more than keep={self.keep} frames")
        labels = [label for group in self.groups for label in group]
        if len(set(labels)) < len(labels):
            raise ValueError(f"groups={self.groups}: give each label number once")


@exportable
class TrackState(NamedTuple):
    """The carry. Empty slots have ``hits`` 0."""

    mean: Array  # [B, S, 4, 2] fp32, see layers.box_kalman
    cov: Array  # [B, S, 4, 3] fp32
    ids: Array  # [B, S] int32, 0 until confirmed
    hits: Array  # [B, S] int32, detections so far, at most ``confirm``
    missed: Array  # [B, S] int32, frames since the last one
    scores: Array  # [B, S] fp32, of the last one
    labels: Array  # [B, S] int32
    votes: Array  # [B, S] fp32, by how much the label leads the others
    looks: Array | None  # [B, S, F] fp32 appearance, None without
    last_id: Array  # [B] int32, given last; after 2**31 - 1 comes 1 again
    begun: Array  # [B] bool: a frame was there


class _Seen(NamedTuple):
    """One stream's detections of one frame."""

    boxes: Array  # [K, 4]
    scores: Array  # [K], 0 for empty slots and classes that are not tracked
    labels: Array  # [K] int32
    looks: Array | None  # [K, F]


@dataclasses.dataclass(frozen=True)
class BoxTracker:
    """Tracks of B streams; no parameters. Latency 0. A gap leaves the tracks as they were, a frame
    without detections lets them move on."""

    config: TrackerConfig = TrackerConfig()
    latency = 0

    def init_carry(self, batch: int) -> TrackState:
        """No tracks."""
        s, f = self.config.slots, self.config.features

        def zeros(*shape: int, dtype: type = np.float32) -> Array:
            return jnp.zeros((batch, *shape), dtype)  # a buffer each, so that all can be donated

        return TrackState(
            zeros(s, 4, 2),
            zeros(s, 4, 3),
            zeros(s, dtype=np.int32),
            zeros(s, dtype=np.int32),
            zeros(s, dtype=np.int32),
            zeros(s),
            zeros(s, dtype=np.int32),
            zeros(s),
            zeros(s, f) if f else None,
            zeros(dtype=np.int32),
            zeros(dtype=np.bool_),
        )

    def __call__(
        self,
        carry: TrackState,
        boxes: Array,
        scores: Array,
        labels: Array | None = None,
        there: Array | None = None,
        features: Array | None = None,
        valid: Array | None = None,
        cut: Array | None = None,
        elapsed: Array | None = None,
    ) -> tuple[TrackState, Tracks]:
        """Joins the detections of T frames to the tracks.

        Args:
          carry: as :meth:`init_carry` or the last call gave it.
          boxes: [B, T, K, 4] x1, y1, x2, y2 in any unit, one per axis.
          scores: [B, T, K] in [0, 1].
          labels: [B, T, K] int32; needed where the config has groups.
          there: [B, T, K] bool, False for empty slots; None: all are detections.
          features: [B, T, K, F], needed where the config has features.
          valid: [B, T] bool, False for frames that never came.
          cut: [B, T] bool, True for the first frame of another shot: who was there is forgotten.
          elapsed: [B, T] int32, frames since the one before: tracks move on, and are forgotten, by
            as many; None or less than 1 is 1. Boxes that stand still stay where they are.

        Raises:
          ValueError: shapes that do not fit together or the config.
        """
        cfg = self.config
        if boxes.ndim != 4 or boxes.shape[-1] != 4:
            raise ValueError(f"boxes {list(boxes.shape)} should be [B, T, K, 4]")
        lead = boxes.shape[:3]
        for name, given in (("scores", scores), ("labels", labels), ("there", there)):
            if given is not None and given.shape != lead:
                raise ValueError(f"{name} {list(given.shape)} should be {list(lead)}, as boxes")
        if cfg.groups and labels is None:
            raise ValueError("this tracker has groups of classes: give labels [B, T, K]")
        if (features is None) == bool(cfg.features) or (
            features is not None and features.shape != (*lead, cfg.features)
        ):
            given = "none" if features is None else list(features.shape)
            wanted = [*lead, cfg.features] if cfg.features else "none"
            raise ValueError(f"features: {given} came, and {wanted} should")
        if elapsed is not None and elapsed.shape != lead[:2]:
            raise ValueError(f"elapsed {list(elapsed.shape)} should be {list(lead[:2])}")
        gone = None if elapsed is None else jnp.maximum(elapsed.astype(jnp.int32), 1)
        there = jnp.ones(lead, bool) if there is None else there
        labels = jnp.zeros(lead, jnp.int32) if labels is None else labels
        # Whatever empty slots hold must not reach the arithmetic; a NaN would poison it all.
        clean = lambda a: zero_invalid(jnp.where(_like(there, a), a, 0), valid)
        sure = jnp.where(_group(cfg, labels) >= 0, scores.astype(jnp.float32), 0.0)
        seen = _Seen(
            clean(boxes.astype(jnp.float32)),
            clean(sure),
            clean(labels.astype(jnp.int32)),
            None if features is None else clean(unit(clean(features.astype(jnp.float32)))),
        )
        step = jax.vmap(functools.partial(_advance, cfg))

        def frame(state: TrackState, piece: tuple[_Seen, *tuple[Array | None, ...]]):
            seen, came, over, gone = piece
            before = state
            if over is not None:
                state = state._replace(hits=jnp.where(over[:, None], 0, state.hits))
                state = state._replace(ids=jnp.where(over[:, None], 0, state.ids))
            # within a frame tracks meet detections by NumPy's rules, whatever a caller's flags say
            with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
                new, out = step(state, seen, gone)
            if came is not None:
                new = hold(new, before, came)
            return new, out

        if lead[1] == 1:
            first = jax.tree.map(lambda a: a[:, 0], (seen, valid, cut, gone))
            carry, out = frame(carry, first)
            out = jax.tree.map(lambda a: a[:, None], out)
        else:
            pieces = jax.tree.map(lambda a: a.swapaxes(0, 1), (seen, valid, cut, gone))
            carry, out = jax.lax.scan(frame, carry, pieces)
            out = jax.tree.map(lambda a: a.swapaxes(0, 1), out)
        return carry, jax.tree.map(lambda a: zero_invalid(a, valid), out)


def _like(mask: Array, a: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim))


def _group(cfg: TrackerConfig, labels: Array) -> Array:
    """The group of each label, -1 for classes that are not tracked."""
    if not cfg.groups:
        return jnp.zeros_like(labels)
    table = np.full(max(max(group, default=0) for group in cfg.groups) + 2, -1, np.int32)
    for number, group in enumerate(cfg.groups):
        table[list(group)] = number
    inside = (labels >= 0) & (labels < len(table) - 1)
    return jnp.asarray(table)[jnp.where(inside, labels, len(table) - 1)]


def _advance(
    cfg: TrackerConfig, s: TrackState, seen: _Seen, gone: Array | None
) -> tuple[TrackState, Tracks]:
    """One frame of one stream, ``gone`` frames after the last: leaves of ``s`` without the batch
    axis."""
    moved = kalman.predict(kalman.BoxState(s.mean, s.cov), gone)
    alive = s.hits > 0
    confirmed = alive & ((s.ids > 0) | (s.hits >= cfg.confirm))

    near = overlap(kalman.to_corners(moved)[:, None], seen.boxes)
    near = jnp.where(_group(cfg, s.labels)[:, None] == _group(cfg, seen.labels), near, 0.0)
    fused = near * seen.scores
    if s.looks is not None and seen.looks is not None:
        # BoT-SORT, equations 12 and 13, with similarity = 1 - cost: half of the cosine distance
        # is the cost of appearance, and the smaller cost of the two decides.
        cosine = s.looks @ seen.looks.T
        same = jnp.where((near >= cfg.near) & (cosine >= cfg.alike), 0.5 + 0.5 * cosine, 0.0)
        fused = jnp.maximum(fused, same)
    high = seen.scores >= cfg.high
    low = (seen.scores > cfg.low) & ~high

    # Three rounds, one after the other: who is matched in one is out of the next.
    rounds = (
        jnp.stack([fused, near, fused]),
        jnp.stack([confirmed, confirmed & (s.missed == 0), alive & ~confirmed]),
        jnp.stack([high, low, high]),
        jnp.asarray([cfg.match_high, cfg.match_low, cfg.match_new], jnp.float32),
    )

    def join(found: Array, one: tuple[Array, ...]) -> tuple[Array, None]:
        similarity, tracks, detections, least = one
        asked = (tracks & (found < 0))[:, None] & detections & ~taken(found)
        asked = jnp.where(asked, similarity, 0.0)
        new = assign(asked)
        # Pairs below the threshold are dropped after the assignment, as the reference does.
        enough = jnp.take_along_axis(asked, jnp.maximum(new, 0)[:, None], axis=1)[:, 0] >= least
        return jnp.where((new >= 0) & enough, new, found), None

    taken = lambda found: _one_hot(found, len(seen.scores)).any(axis=0)
    none = jnp.full((cfg.slots,), -1, jnp.int32)
    found, _ = jax.lax.scan(join, none, rounds)
    hit = found >= 0

    at = jnp.maximum(found, 0)
    state = hold(kalman.update(moved, seen.boxes[at]), moved, hit)
    hits = jnp.where(hit, jnp.minimum(s.hits + 1, cfg.confirm), s.hits)
    more = 1 if gone is None else jnp.minimum(gone, cfg.keep + 1)
    missed = jnp.where(hit, 0, jnp.minimum(s.missed + more, cfg.keep + 1))
    # A track that was never confirmed is forgotten at its first miss.
    alive = hit | (confirmed & (missed <= cfg.keep))
    hits = jnp.where(alive, hits, 0)
    ids, last_id = _name(s.ids, s.last_id, alive & (s.ids == 0) & hit & (hits >= cfg.confirm))
    labels, votes = _vote(s, seen, at, hit)
    looks = s.looks
    if looks is not None and seen.looks is not None:
        mixed = unit(cfg.memory * looks + (1 - cfg.memory) * seen.looks[at])
        looks = hold(mixed, looks, hit)
    scores = jnp.where(hit, seen.scores[at], s.scores)
    updated = TrackState(
        state.mean,
        state.cov,
        ids,
        hits,
        missed,
        scores,
        labels,
        votes,
        looks,
        last_id,
        jnp.bool_(True),
    )

    free = (seen.scores >= cfg.begin) & ~taken(found)
    updated, found = _begin(cfg, s.begun, updated, found, seen, free)
    return updated, _answer(cfg, updated, found, len(seen.scores))


def _one_hot(index: Array, size: int) -> Array:
    return index[:, None] == jnp.arange(size)


def _name(ids: Array, last: Array, who: Array) -> tuple[Array, Array]:
    """The next ids for those that get one, in the order of slots."""
    turn = jnp.cumsum(who, dtype=jnp.int32)
    # After the last number comes 1 again; without overflow on the way there.
    left = LAST_ID - last
    number = jnp.where(turn > left, turn - left, last + jnp.minimum(turn, left))
    count = turn[-1]
    last = jnp.where(count > left, count - left, last + jnp.minimum(count, left))
    return jnp.where(who, number, ids), last


def _vote(s: TrackState, seen: _Seen, at: Array, hit: Array) -> tuple[Array, Array]:
    """The label that most of the score was for: Boyer and Moore's vote, in one number."""
    score, label = seen.scores[at], seen.labels[at]
    votes = jnp.where(label == s.labels, s.votes + score, s.votes - score)
    turned = hit & (votes < 0)
    labels = jnp.where(turned, label, s.labels)
    # Bounded, so that after hours a class can still change within seconds.
    votes = jnp.minimum(jnp.abs(votes), 10.0)
    return labels, jnp.where(hit, votes, s.votes)


def _begin(
    cfg: TrackerConfig, begun: Array, s: TrackState, found: Array, seen: _Seen, free: Array
) -> tuple[TrackState, Array]:
    """Unmatched detections get slots: empty ones first, then those lost the longest."""
    # In the order in which slots may be taken: -1 is never.
    worth = jnp.where(s.hits == 0, cfg.keep + 2, jnp.where(s.missed > 0, s.missed, -1))
    slots, count = cfg.slots, len(seen.scores)
    order = jnp.argsort(-worth, stable=True)  # slots
    turn = jnp.cumsum(free, dtype=jnp.int32) - 1  # of each new detection
    who = jnp.full((slots,), -1, jnp.int32)
    who = who.at[jnp.where(free, turn, slots)].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
    mine = jnp.full((slots,), -1, jnp.int32).at[order].set(who)
    new = (mine >= 0) & (worth >= 0)
    at = jnp.maximum(mine, 0)
    state = hold(kalman.start(seen.boxes[at]), kalman.BoxState(s.mean, s.cov), new)
    ids, last_id = _name(jnp.where(new, 0, s.ids), s.last_id, new & ~begun)
    put = lambda fresh, old: jnp.where(_like(new, old), fresh, old)
    looks = None
    if s.looks is not None and seen.looks is not None:
        looks = put(seen.looks[at], s.looks)
    updated = TrackState(
        state.mean,
        state.cov,
        ids,
        put(jnp.int32(1), s.hits),
        put(jnp.int32(0), s.missed),
        put(seen.scores[at], s.scores),
        put(seen.labels[at], s.labels),
        put(seen.scores[at], s.votes),
        looks,
        last_id,
        s.begun,
    )
    return updated, jnp.where(new, mine, jnp.where(s.hits > 0, found, -1))


def _answer(cfg: TrackerConfig, s: TrackState, found: Array, count: int) -> Tracks:
    valid = (s.hits > 0) & (s.ids > 0) & (s.missed <= cfg.coast)
    clean = lambda a: jnp.where(_like(valid, a), a, jnp.zeros((), a.dtype))
    mine = _one_hot(found, count) & (s.ids > 0)[:, None]
    return Tracks(
        clean(kalman.to_corners(kalman.BoxState(s.mean, s.cov))),
        clean(s.ids),
        clean(s.scores),
        clean(s.labels),
        valid,
        valid & (s.missed == 0),
        jnp.where(mine, s.ids[:, None], 0).max(axis=0),
        jnp.where(s.hits > 0, s.ids, 0),
    )
