"""What the action part says of clips that it never saw, and when it had better be silent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from ...layers.streaming import Params
from ...zoo.action.decision import Decision
from ...zoo.action.person import PersonAction, PersonConfig
from ..data.base import DataError
from ..decision import (
    Answered,
    Figures,
    Wanted,
    calibration_error,
    figures,
    fit,
    fit_domain,
    fit_temperature,
    known,
)
from .clips import FALLING, FIGHTING, NOTHING, STANDING, WALKING, Labelled, gait
from .learn import BEGIN
from .tracks import Followed, Track

TOGETHER = (FIGHTING, 6, 7, 8)  # what UT-Interaction's clips are of
WANTED = Wanted(alarms=0.5, risk=0.2, holds=(3, 6), slack=(0.5,))
LENGTHS = (16, 64, 256, 1024)  # tracks are filled up to one of these: few compiles


class Said(NamedTuple):
    """Of one track: logits [N, C] and features [N, D] of the frames in which he was seen."""

    track: Track
    logits: np.ndarray
    features: np.ndarray


def sayer(config: PersonConfig, params: Params) -> Callable[[Followed], list[Said]]:
    """Runs the action part along every track of a video."""
    model = PersonAction(config)

    @jax.jit
    def run(params: Params, crops: Any, valid: Any) -> Any:
        out: Any = model.apply(params, model.init_carry(1), crops, valid)[1]
        return out.logits[0, :, 0], out.features[0, :, 0]

    heard: dict[str, list[Said]] = {}

    def say(video: Followed) -> list[Said]:
        if video.name in heard:
            return heard[video.name]
        found = heard[video.name] = []
        for track in video.tracks:
            count = len(track.time)
            size = next((n for n in LENGTHS if n >= count), count)
            fill = lambda a, size=size: np.pad(
                np.float32(a), ((0, size - len(a)), *[(0, 0)] * (a.ndim - 1))
            )
            crops = jax.tree.map(lambda a, fill=fill: fill(a)[None, :, None], track.crops)
            out = run(params, crops, (np.arange(size) < count)[None])
            found.append(Said(track, *(np.asarray(a)[:count] for a in out)))
        return found

    return say


def clip_scores(said: Sequence[Said]) -> np.ndarray:
    """What a clip shows [C], log probabilities: of each action those of the track that says it
    loudest, in the mean over its frames."""
    means = [log_softmax(s.logits, -1)[BEGIN:].mean(0) for s in said if len(s.logits) > BEGIN]
    return np.max(means, axis=0) if means else np.full(9, -20.0)


def classified(clips: Sequence[Labelled], say: Callable[[Followed], list[Said]]) -> dict:
    """Top-1 among UT-Interaction's groups, balanced accuracy and AUC of fights, and how many of the
    frames of falls and daily acts, and of those that walk or stand by their track, are right."""
    ut, fights, frames = [], [], {}
    for clip in clips:
        said = say(clip.clip)
        scores = clip_scores(said)
        if clip.set == "ut" and clip.truth in TOGETHER:
            ut.append(TOGETHER[int(np.argmax(scores[list(TOGETHER)]))] == clip.truth)
        if clip.set == "fight":
            fights.append((clip.truth == FIGHTING, scores[FIGHTING]))
        for one, label in zip(said, clip.labels, strict=True):
            kind = "fall_set" if clip.set == "fall" else "gait"
            of = label >= 0 if clip.set == "fall" else np.isin(label, (WALKING, STANDING))
            frames.setdefault(kind, []).append(one.logits.argmax(-1)[of] == label[of])
    right = {k: float(np.concatenate(v).mean()) for k, v in frames.items()}
    out: dict = {"ut_top1": float(np.mean(ut)) if ut else None, "ut_clips": len(ut), **right}
    pos, neg = (np.asarray([s for truth, s in fights if truth == side]) for side in (True, False))
    if len(pos) and len(neg):
        out["fight_auc"] = float((pos[:, None] > neg).mean() + 0.5 * (pos[:, None] == neg).mean())
        out["fight_clips"] = len(fights)
    return out


def falls(clips: Sequence[Labelled], say: Callable[[Followed], list[Said]], hold: int = 3) -> dict:
    """Falls as events: said for ``hold`` frames in a row, inside the segment or not; how late."""
    hits = false = there = 0
    delays = []
    for clip in clips:
        if clip.set != "fall":
            continue
        starts = []
        for one in say(clip.clip):
            run = 0
            for time, best in zip(one.track.time, one.logits.argmax(-1), strict=True):
                run = run + 1 if best == FALLING else 0
                if run == hold:
                    starts.append(time / clip.clip.rate)
        segments = [s for s in clip.segments if s[0] == FALLING]
        for _, start, end in segments:
            inside = [t for t in starts if start <= t <= end + 0.5]
            there += 1
            if inside:
                hits += 1
                delays.append(min(inside) - start)
        false += sum(not any(s <= t <= e + 0.5 for _, s, e in segments) for t in starts)
    precision, recall = hits / max(hits + false, 1), hits / max(there, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    delay = float(np.median(delays)) if delays else None
    return dict(falls=there, found=hits, false=false, event_f1=f1, median_delay_s=delay)


# When it knows


def accepted(clip: Labelled, label: np.ndarray) -> frozenset[int]:
    """What may be said of a track without being false."""
    ours = {int(n) for n in np.unique(label)} - {-1, NOTHING}
    return frozenset(ours | ({clip.truth} - {-1, NOTHING}))


def answers(
    rule: Decision, clips: Sequence[Labelled], say: Callable[[Followed], list[Said]]
) -> list[Answered]:
    """Every track of some clips as a video of its own."""
    return [
        Answered(scores(rule, one), clip.clip.rate, accepted(clip, label))
        for clip in clips
        for one, label in zip(say(clip.clip), clip.labels, strict=True)
    ]


def foreign(
    rule: Decision, videos: Sequence[Followed], say: Callable[[Followed], list[Said]]
) -> list[Answered]:
    """Every track of videos of other things: there only who walks or stands by his track does."""
    return [
        Answered(
            scores(rule, one), video.rate,
            frozenset({int(n) for n in np.unique(gait(one.track, video.rate))} - {-1}),
        )
        for video in videos
        for one in say(video)
    ]  # fmt: skip


def scores(rule: Decision, said: Said) -> np.ndarray:
    """[N, C]."""
    return np.asarray(
        rule.scores(jnp.asarray(said.logits) / rule.temperature, jnp.asarray(said.features))
    )


class Decided(NamedTuple):
    """A decision, how it was found, and what it does to clips that it was not fitted to."""

    decision: Decision
    errors: tuple[float, float]  # calibration error of the tests' frames, without and with
    clips: Figures
    others: Figures
    curve: tuple[np.ndarray, np.ndarray, np.ndarray]  # see ``train.decision_plot.draw``


def decided(
    held: Sequence[Labelled],
    test: Sequence[Labelled],
    other: Sequence[Followed],
    foreign_test: Sequence[Followed],
    say: Callable[[Followed], list[Said]],
    wanted: Wanted = WANTED,
    penalty: float = 3e-3,
) -> Decided:
    """Fits temperature, gate and thresholds to ``held`` and ``other``, measures on the rest.

    Raises DataError where a side has nobody in it.
    """
    inside = [(one, label) for c in held for one, label in _told(c, say)]
    outside = [one for video in other for one in say(video)]
    if not inside or not outside:
        raise DataError("nobody was followed in the clips that a decision is fitted to")
    logits = np.concatenate([one.logits[label >= 0] for one, label in inside])
    truth = np.concatenate([label[label >= 0] for one, label in inside])
    temperature = round(fit_temperature(logits, truth, several=False), 3)
    gate = fit_domain(
        np.concatenate([one.features for one, _ in inside]),
        np.concatenate([one.features for one in outside]),
        penalty,
    )
    rule = Decision(
        temperature=temperature, domain=tuple(round(w, 4) for w in gate),
        several=False, nothing=(NOTHING,),
    )  # fmt: skip
    ours, theirs = answers(rule, held, say), foreign(rule, other, say)
    quiet = [*theirs, *(a for a in ours if not a.truth)]
    rule, *_ = fit(rule, [a for a in ours if a.truth], quiet, wanted)
    plain = dataclasses.replace(rule, temperature=1.0, domain=())
    warm = dataclasses.replace(rule, domain=())
    back, away = answers(rule, test, say), foreign(rule, foreign_test, say)
    errors = tuple(calibration_error(*labelled_frames(one, test, say)) for one in (plain, warm))
    tops = [[*answers(r, test, say), *foreign(r, foreign_test, say)] for r in (plain, rule)]
    top = [np.concatenate([a.scores[:, 1:].max(1) for a in part]) for part in tops]
    right = np.concatenate([np.isin(a.scores[:, 1:].argmax(1) + 1, [*a.truth]) for a in tops[1]])
    return Decided(
        rule, (errors[0], errors[1]), figures(known(rule, back), back),
        figures(known(rule, away), away), (top[0], top[1], right),
    )  # fmt: skip


def _told(clip: Labelled, say: Callable[[Followed], list[Said]]) -> list[tuple[Said, np.ndarray]]:
    """Tracks with a label per frame; of an interaction both who take part do it."""
    found = list(zip(say(clip.clip), clip.labels, strict=True))
    if clip.set == "ut" and clip.truth > 0:
        found.sort(key=lambda pair: -len(pair[0].logits))
        found = [(one, np.where(np.arange(len(y)) > BEGIN, clip.truth, -1)) for one, y in found[:2]]
    return found


def labelled_frames(
    rule: Decision, clips: Sequence[Labelled], say: Callable[[Followed], list[Said]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each labelled frame the best score, and whether it is right."""
    pairs = [pair for clip in clips for pair in _told(clip, say)]
    found = [(scores(rule, one)[y >= 0], y[y >= 0]) for one, y in pairs]
    best = np.concatenate([s.max(-1) for s, _ in found])
    return best, np.concatenate([s.argmax(-1) == y for s, y in found])
