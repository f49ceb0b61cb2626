"""What a synthetic person does: curves over time, and the labels that follow from them.

T frames, C = 13 classes. A life is random, and as likely as the same life played backwards; that
is what makes ``walk_left`` and ``walk_right``, ``approach`` and ``retreat``, ``rise`` and
``crouch`` and the two orders of events alike in any single frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .figures import Pose

CLASSES = (
    "stand", "walk_left", "walk_right", "approach", "retreat", "rise", "crouch", "wave", "hold",
    "up_then_bow", "bow_then_up", "lying", "carrying",
)  # fmt: skip
OPPOSITE = {"walk_left": "walk_right", "approach": "retreat", "rise": "crouch"}
OPPOSITE |= {after: before for before, after in OPPOSITE.items()}
EVENT_SECONDS, RAMP, ORDER_SECONDS = 0.6, 0.1, 1.0
LEAD = 5.0  # seconds of life before and after what is shown, so that its ends are not special
SIZES = (0.36, 0.74)  # figure height as a fraction of the frame's shorter side


class Segment(NamedTuple):
    kind: str
    start: float  # seconds
    end: float


class Life(NamedTuple):
    """What one person does: piecewise-linear curves (knots t, value) and named segments."""

    curves: dict[str, list[tuple[float, float]]]
    motion: list[Segment]
    gesture: list[Segment]
    carry: list[Segment]
    events: list[Segment]


class _Curve:
    """Knots of a piecewise-linear curve."""

    def __init__(self, value: float):
        self.knots = [(-LEAD, value)]

    @property
    def value(self) -> float:
        return self.knots[-1][1]

    def to(self, start: float, end: float, value: float) -> None:
        self.knots += [(start, self.value), (end, value)]


def live(rng: np.random.Generator, total: float, lane, sizes, gap) -> Life:
    """One person's life of ``total`` seconds, within a lane of x and a range of sizes."""
    low, high = lane
    x, size = _Curve(rng.uniform(low, high)), _Curve(rng.uniform(*np.log(sizes)))
    gait, height, lie = _Curve(rng.uniform(0, 2 * np.pi)), _Curve(1.0), _Curve(0.0)
    motion, t, last = [], 0.0, ""
    while t < total:
        kinds, odds = ["stand", "walk", "scale", "crouch", "lying"], [0.17, 0.27, 0.24, 0.22, 0.10]
        kind = "rise" if last == "low" else str(rng.choice(kinds, p=odds))
        if last == "crouch":
            kind = "low" if rng.random() < 0.35 else "rise"
        elif kind == last:
            continue
        end = t + rng.uniform(2.0, 4.0)
        if kind == "walk":
            left, right = x.value - low, high - x.value
            sign = 1.0 if rng.random() < 0.5 else -1.0
            if min(left, right) < 0.15:
                sign = 1.0 if right > left else -1.0
            far = min((end - t) * rng.uniform(0.10, 0.2), right if sign > 0 else left)
            end = min(end, t + far / 0.08)
            x.to(t, end, x.value + sign * far)
            kind = "walk_right" if sign > 0 else "walk_left"
        elif kind == "scale":
            least, most = np.log(sizes)
            sign = 1.0 if rng.random() < 0.5 else -1.0
            if min(size.value - least, most - size.value) < 0.2:
                sign = 1.0 if most - size.value > size.value - least else -1.0
            room = most - size.value if sign > 0 else size.value - least
            far = min((end - t) * rng.uniform(0.16, 0.32), room)
            end = min(end, t + far / 0.14)
            size.to(t, end, size.value + sign * far)
            kind = "approach" if sign > 0 else "retreat"
        elif kind in ("crouch", "rise"):
            end = t + rng.uniform(1.5, 3.0)
            height.to(t, end, 0.0 if kind == "crouch" else 1.0)
        elif kind == "low":
            end = t + rng.uniform(1.0, 2.5)
        elif kind == "lying":
            lie.to(t - 0.2, t + 0.2, 1.0)
            lie.to(end - 0.2, end + 0.2, 0.0)
        if kind in ("walk_left", "walk_right", "approach", "retreat"):
            rate = rng.uniform(0.7, 1.2) * (1 if rng.random() < 0.5 else -1)
            gait.to(t, end, gait.value + 2 * np.pi * rate * (end - t))
        motion.append(Segment(kind, t, end))
        t, last = end, kind

    raised, swing = _Curve(0.0), _Curve(rng.uniform(0, 2 * np.pi))
    gesture = _switch(rng, total, ("", "wave", "hold"), (0.3, 0.35, 0.35))
    for kind, start, end in gesture:
        raised.to(start - 0.15, start + 0.15, 0.0 if kind == "" else 1.0)
        if kind == "wave":
            turns = rng.uniform(0.8, 1.2) * (end - start)
            swing.to(start, end, swing.value + 2 * np.pi * turns)
    carry = _switch(rng, total, ("", "carrying"), (0.5, 0.5))

    down = [s for s in motion if s.kind == "lying"]
    events, t = [], rng.uniform(0.5, 4.0)
    while t < total - 2:
        kind = "up" if rng.random() < 0.5 else "bow"
        if not any(s.start - 1.0 < t < s.end + 0.4 for s in down):
            events.append(Segment(kind, t, t + EVENT_SECONDS))
        t += rng.uniform(*gap) if rng.random() < 0.8 else rng.uniform(gap[1] + 1, gap[1] + 3)
    curves = {"x": x, "size": size, "gait": gait, "height": height, "lie": lie}
    curves |= {"raised": raised, "swing": swing}
    return Life({n: c.knots for n, c in curves.items()}, motion, gesture, carry, events)


def _switch(rng: np.random.Generator, total: float, kinds, odds) -> list[Segment]:
    """Segments of 2 to 4 s, of another kind each."""
    out: list[Segment] = []
    t = -rng.uniform(0.0, 3.0)
    while t < total:
        kind = str(rng.choice(kinds, p=odds))
        if out and kind == out[-1].kind:
            kind = kinds[(kinds.index(kind) + rng.integers(1, len(kinds))) % len(kinds)]
        end = t + rng.uniform(2.0, 4.0)
        out.append(Segment(kind, t, end))
        t = end
    return out


def backwards(life: Life, total: float) -> Life:
    """The same life, played from its end: the same frames in opposite order."""

    def turn(segments: list[Segment]) -> list[Segment]:
        return [
            Segment(OPPOSITE.get(s.kind, s.kind), total - s.end, total - s.start)
            for s in reversed(segments)
        ]

    curves = {n: [(total - t, v) for t, v in reversed(k)] for n, k in life.curves.items()}
    parts = (life.motion, life.gesture, life.carry, life.events)
    return Life(curves, *(turn(part) for part in parts))


def inside(segments: list[Segment], kind: str, t: np.ndarray, delay: float = 0.0) -> np.ndarray:
    """[T] bool: t lies in a segment of this kind that began at least ``delay`` before."""
    on = np.zeros(t.shape, bool)
    for segment in segments:
        if segment.kind == kind:
            on |= (t - delay >= segment.start) & (t < segment.end)
    return on


def _ramp(segments: list[Segment], kind: str, t: np.ndarray) -> np.ndarray:
    """[T] 0 .. 1: how far an event is carried out."""
    out = np.zeros(t.shape)
    for segment in segments:
        if segment.kind == kind:
            out = np.maximum(out, np.minimum(t - segment.start, segment.end - t) / RAMP)
    return np.clip(out, 0.0, 1.0)


def act(
    life: Life, t: np.ndarray, mirror: float, side: float
) -> tuple[Pose, dict[str, np.ndarray]]:
    """The pose at times t, and all curves [T] by name (``x`` and log ``size`` among them)."""
    curves = {name: np.interp(t, *np.asarray(k).T) for name, k in life.curves.items()}
    up, bow = _ramp(life.events, "up", t), _ramp(life.events, "bow", t)
    gait, height, lie = curves["gait"], curves["height"], curves["lie"]
    return Pose(gait, height, lie, up, bow, curves["raised"], curves["swing"], mirror, side), curves


def labels(life: Life, t: np.ndarray, step: float, pose: Pose, gap) -> np.ndarray:
    """Labels [T, C] of a life at times t (seconds), ``step`` seconds apart."""
    out = np.zeros((len(t), len(CLASSES)), np.float32)
    for index, name in enumerate(CLASSES):
        if name in ("wave", "hold"):
            out[:, index] = inside(life.gesture, name, t, step) & (pose.up == 0)
        elif name == "lying":
            out[:, index] = pose.lie > 0.5
        elif name == "carrying":
            out[:, index] = inside(life.carry, name, t)
        else:
            out[:, index] = inside(life.motion, name, t, step)
    for first, second in zip(life.events, life.events[1:], strict=False):
        apart = second.start - first.start
        if first.kind != second.kind and gap[0] - 1e-6 <= apart <= gap[1] + 1e-6:
            after = t - second.start - RAMP
            name = f"{first.kind}_then_{second.kind}"
            out[(after >= 0) & (after < ORDER_SECONDS), CLASSES.index(name)] = 1.0
    return out
