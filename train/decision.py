"""When an action model knows: its decision, fitted on videos that its weights never saw.

A temperature makes probabilities as often right as they say, a linear classifier of its features
tells videos of the kind it learned from others, and thresholds keep it silent on those others, at a
rate of false alarms that is asked for. T frames, C classes, D features.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from ..zoo.action.decision import Decision, decide, nobody
from .data.base import DataError


class Answered(NamedTuple):
    """What a model said about one video: scores [T, C], of ``Decision.scores``, and what is true.

    ``truth``: the classes that the video shows; none for one that shows nothing the model knows.
    """

    scores: np.ndarray
    frame_rate: float
    truth: frozenset[int]

    @property
    def minutes(self) -> float:
        return len(self.scores) / self.frame_rate / 60


def fit_temperature(logits: np.ndarray, truth: np.ndarray, several: bool) -> float:
    """The temperature with the least negative log likelihood.

    logits [N, C]; truth [N] class numbers, or with ``several`` [N, C] in {0, 1}.
    Raises DataError without a single answer.
    """
    if not len(logits):
        raise DataError("a temperature needs answers to labelled videos: there are none")
    logits = np.asarray(logits, np.float64)

    def loss(log: float) -> float:
        z = logits / np.exp(log)
        if several:
            return float(np.mean(np.logaddexp(0, z) - z * truth))
        best = z.max(axis=-1, keepdims=True)
        total = best[:, 0] + np.log(np.exp(z - best).sum(axis=-1))
        return float(np.mean(total - z[np.arange(len(z)), truth]))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def fit_domain(inside: np.ndarray, outside: np.ndarray, penalty: float = 1e-2) -> tuple[float, ...]:
    """Weights of features, and last a constant: log odds of ``inside`` [N, D] against ``outside``
    [M, D], both counted alike however many there are.

    Logistic regression; ``penalty`` times the squared weights of features of unit spread.
    """
    if not len(inside) or not len(outside):
        raise DataError("what is known is told from what is not by videos of both: one is missing")
    x = np.concatenate([inside, outside]).astype(np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / spread
    sign = np.concatenate([np.ones(len(inside)), -np.ones(len(outside))])
    share = np.concatenate([np.full(len(part), 0.5 / len(part)) for part in (inside, outside)])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w[:-1] + w[-1])
        slope = -share * sign * expit(-margin)
        regular = np.append(w[:-1], 0.0)
        value = share @ np.logaddexp(0, -margin) + penalty * regular @ regular
        return float(value), np.append(x.T @ slope, slope.sum()) + 2 * penalty * regular

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weights = found[:-1] / spread
    return (*weights.tolist(), float(found[-1] - weights @ mean))


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599) of answers [N]."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(probability[place == k].mean() - right[place == k].mean()) * (place == k).mean()
        for k in range(bins)
        if (place == k).any()
    ]
    return float(sum(gaps))


def risk_coverage(score: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk) [N]: of the answers with the k highest scores, how many are wrong."""
    order = np.argsort(-score, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), np.cumsum(~right[order]) / count


@functools.partial(jax.jit, static_argnames=("several", "nothing"))
def _known(scores, there, on, off, hold, several, nothing):
    """[N, T, C] of many videos at once, under thresholds that are arrays."""
    rule: Any = types.SimpleNamespace(on=on, off=off, hold=hold, several=several, nothing=nothing)
    batch, steps, classes = scores.shape
    whole = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 1.0, 1.0]), (batch, steps, 1, 4))
    state = nobody(batch, 1, classes)
    return decide(rule, state, scores[:, :, None], whole, there[..., None])[1][:, :, 0]


def known(decision: Decision, found: Sequence[Answered]) -> list[np.ndarray]:
    """Which answers are known, bool [T, C] of each video."""
    return _all_known(decision, *_padded(found), found)


def _padded(found: Sequence[Answered]) -> tuple[np.ndarray, np.ndarray]:
    longest = -(-max(len(f.scores) for f in found) // 64) * 64  # few shapes, few compiles
    scores = np.zeros((len(found), longest, found[0].scores.shape[1]), np.float32)
    there = np.zeros(scores.shape[:2], bool)
    for row, one in enumerate(found):
        scores[row, : len(one.scores)] = one.scores
        there[row, : len(one.scores)] = True
    return scores, there


def _all_known(
    decision: Decision, scores: np.ndarray, there: np.ndarray, found: Sequence[Answered]
) -> list[np.ndarray]:
    out = np.asarray(
        _known(
            scores, there, decision.on, decision.off, decision.hold,
            several=decision.several, nothing=decision.nothing,
        )
    )  # fmt: skip
    return [out[row, : len(one.scores)] for row, one in enumerate(found)]


class Figures(NamedTuple):
    """What a decision does to videos.

    alarms: times that something false begins to be said, and per minute of video
    false_time: share of the frames in which something false is said
    coverage: share of the videos with a truth of which something is said, at some frame
    covered_time: share of their frames
    right: of those covered, the share whose every word is true
    """

    videos: int
    minutes: float
    alarms: int
    alarms_per_minute: float
    false_time: float
    coverage: float
    covered_time: float
    right: float


def figures(said: Sequence[np.ndarray], found: Sequence[Answered]) -> Figures:
    """Counts what is said, bool [T, C] of each video, against the truth."""
    alarms = false = frames = covered = spoken = 0
    labelled = right = labelled_frames = 0
    for words, one in zip(said, found, strict=True):
        wrong = words.copy()
        wrong[:, list(one.truth)] = False
        begins = wrong & ~np.pad(wrong, ((1, 0), (0, 0)))[:-1]
        alarms += int(begins.sum())
        false += int(wrong.any(axis=1).sum())
        frames += len(words)
        if one.truth:
            labelled += 1
            labelled_frames += len(words)
            spoken += int(words.any(axis=1).sum())
            covered += bool(words.any())
            right += bool(words.any() and not wrong.any())
    minutes = sum(one.minutes for one in found)
    share = lambda a, b: a / b if b else float("nan")
    return Figures(
        len(found), minutes, alarms, share(alarms, minutes), share(false, frames),
        share(covered, labelled), share(spoken, labelled_frames), share(right, covered),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a decision is to be like.

    Attributes:
      alarms: false alarms per minute on videos without any of the model's actions, at most.
      risk: of the videos with a truth, the share that is named wrongly once something is said, at
        most.
      holds: frames in a row that are tried.
      slack: ``off`` as shares of ``on`` that are tried.
    """

    alarms: float = 0.5
    risk: float = 0.1
    holds: tuple[int, ...] = (1, 2, 3, 4, 6, 10, 15)
    slack: tuple[float, ...] = (1.0, 0.75, 0.5)


def fit(
    rule: Decision,
    known_videos: Sequence[Answered],
    unknown_videos: Sequence[Answered],
    wanted: Wanted = Wanted(),
) -> tuple[Decision, Figures, Figures]:
    """``rule``, which made the scores, with the thresholds that say most among those that are as
    quiet and as right as wanted.

    Returns (decision, its figures on the known videos, on the unknown ones). Where none is as
    right as wanted, the most right of the quiet ones; there always is one that says nothing.
    Raises DataError without videos of both kinds.
    """
    if not known_videos or not unknown_videos:
        raise DataError("a decision is fitted on videos of its actions and on videos of others")
    inside, outside = (_padded(found) for found in (known_videos, unknown_videos))
    top = np.concatenate([s[there].max(axis=-1) for s, there in (inside, outside)])
    levels = np.unique(np.round(np.quantile(top, np.linspace(0.02, 1, 40)), 4))
    best: tuple[tuple, Decision, Figures, Figures] | None = None
    for hold, on, share in itertools.product(wanted.holds, [*levels, 2.0], wanted.slack):
        off = round(on * share, 4)
        tried = dataclasses.replace(rule, on=float(on), off=min(float(off), float(on)), hold=hold)
        quiet = figures(_all_known(tried, *outside, unknown_videos), unknown_videos)
        if quiet.alarms_per_minute > wanted.alarms:
            continue
        spoken = figures(_all_known(tried, *inside, known_videos), known_videos)
        wrong = spoken.coverage * (1 - spoken.right) if spoken.coverage else 0.0
        fine = wrong <= wanted.risk * spoken.coverage
        # among equals the one that is known longest, then the quieter one
        rank = (fine, spoken.coverage if fine else -wrong, spoken.covered_time, -quiet.false_time)
        if best is None or rank > best[0]:
            best = rank, tried, spoken, quiet
    assert best is not None  # above 1 nothing is ever said
    return best[1:]
