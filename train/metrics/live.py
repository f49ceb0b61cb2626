"""How well a model speaks at the right time, and says the right words.

Source: Chen et al., "VideoLLM-online" (arXiv 2406.11816), section 4.1: LM-PPL, TimeDiff, fluency;
as its code, showlab/videollm-online, computes them (models/modeling_live.py stream_evaluate).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

IGNORED = -100


class LiveFigures(NamedTuple):
    """perplexity: of the words, mean over turns; frames_off: how many frames a reply came too early
    or too late, mean over turns (TimeDiff is this by the frame rate); fluency: share of a turn's
    tokens before the first mistake; correct: share of its words before the first wrong one."""

    perplexity: float
    frames_off: float
    fluency: float
    correct: float


class Turn(NamedTuple):
    """tokens start..stop of a turn, one behind its end token; frames: shown in it."""

    start: int
    stop: int
    frames: int


def turns(tokens: np.ndarray, picture: int, end: int, per_frame: int) -> list[Turn]:
    """The turns of a conversation [N], each up to its end token."""
    stops = (np.flatnonzero(tokens == end) + 1).tolist()
    starts = [0, *stops[:-1]]
    there = tokens == picture
    pairs = list(zip(starts, stops, strict=True))
    shown = [int(there[a:b].sum()) // per_frame for a, b in pairs]
    return [Turn(*t) for t in zip(starts, stops, shown, strict=True)]


def live_figures(
    logits: np.ndarray,
    tokens: np.ndarray,
    labels: np.ndarray,
    *,
    picture: int,
    silence: int,
    end: int,
    per_frame: int,
    threshold: float = 0.0,
    later: Callable[[int, int, int], np.ndarray],
) -> LiveFigures:
    """Figures of a conversation that was read with its true replies.

    Args:
      logits: [N, V].
      tokens, labels: [N]; labels are of the token that follows, :data:`IGNORED` for none.
      picture: the token that stands for one of a frame.
      silence, end: tokens.
      per_frame: tokens of a frame.
      threshold: least probability at which silence is believed.
      later: (place behind the last frame of a turn, number of the next frame, how many) -> logits
        [how many, V] behind frames that are shown when no reply came, for one that is late.
    """
    told = turns(tokens, picture, end, per_frame)
    ppl, off, fluent, correct, past = [], [], [], [], 0
    for number, turn in enumerate(told):
        own = slice(turn.start, turn.stop)
        label, shown = labels[own], tokens[own] == picture
        learned = label != IGNORED
        silent, words = shown & learned, learned & ~shown
        right = 0
        if not learned.any():
            continue
        if words.any():
            right = _words(logits[own][words], label[words], ppl, correct)
        if silent.any():
            nexts = told[number + 1].frames if number + 1 < len(told) else 0
            room = min(nexts, turn.frames - 1)
            last = turn.start + int(np.flatnonzero(silent)[-1]) + 1
            show = lambda n, at=last, first=past + turn.frames: later(at, first, n)
            ahead = _ahead(logits[own][silent], silence, threshold, room, show)
            off.append(abs(ahead))
            if words.any():
                total = int(words.sum()) + int(silent.sum())
                before = int(silent.sum()) - (ahead if ahead > 0 else int(ahead < 0))
                fluent.append((before + (right if ahead == 0 else 0)) / total)
        past += turn.frames
    mean = lambda values, none: float(np.mean(values)) if values else none
    return LiveFigures(mean(ppl, 1.0), mean(off, 0.0), mean(fluent, 1.0), mean(correct, 1.0))


def _words(logits: np.ndarray, label: np.ndarray, ppl: list[float], correct: list[float]) -> int:
    x = logits.astype(np.float64)
    logp = x - x.max(-1, keepdims=True)
    logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True))
    ppl.append(float(np.exp(-logp[np.arange(len(label)), label].mean())))
    wrong = np.flatnonzero(x.argmax(-1) != label)
    right = int(wrong[0]) if len(wrong) else len(label)
    correct.append(right / len(label))
    return right


def speaks(logits: np.ndarray, silence: int, threshold: float) -> np.ndarray:
    """[F] bool: whether a reply begins behind each of these logits [F, V]."""
    x = logits.astype(np.float64)
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return (p.argmax(-1) != silence) | ((p[:, silence] < threshold) & (threshold > 0))


def _ahead(
    logits: np.ndarray,
    silence: int,
    threshold: float,
    room: int,
    show: Callable[[int], np.ndarray],
) -> int:
    """Frames between a reply and its true place: positive too early, negative too late."""
    said = np.flatnonzero(speaks(logits, silence, threshold))
    if len(said):
        return len(logits) - int(said[0]) - 1
    if room < 1:  # nothing more was shown, or nothing that would be fair
        return 0
    late = np.flatnonzero(speaks(show(room), silence, threshold))
    return -(int(late[0]) + 1) if len(late) else -room


def time_differences(
    said: Sequence[float], true: Sequence[float], reach: float = 5.0
) -> tuple[np.ndarray, float, float]:
    """Each true moment with the nearest of what was said within ``reach`` seconds, one to one.

    Returns:
      (seconds off [matched], precision, recall).
    """
    pairs = sorted((abs(s - t), i, j) for i, s in enumerate(said) for j, t in enumerate(true))
    used, found, off = set[int](), set[int](), []
    for gap, i, j in pairs:
        if gap <= reach and i not in used and j not in found:
            used.add(i)
            found.add(j)
            off.append(gap)
    precision = len(off) / len(said) if len(said) else 1.0
    recall = len(off) / len(true) if len(true) else 1.0
    return np.asarray(off), precision, recall
