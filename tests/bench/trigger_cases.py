"""Each trigger on one stream, set up on the others; and what it was worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamzoo.streaming.triggers import (
    Cascade,
    ChangeTrigger,
    Gate,
    Interval,
    Speak,
    Verify,
    valleys,
)

from .trigger_streams import Stream

LAGS = (1, 4, 8, 16)  # frames back of the differences that the linear heads see
WIDTH = 24  # directions of the picture, and of each difference
BEGUN = 8  # frames in which something has just begun


def score(said: Sequence[int], stream: Stream) -> tuple[int, int, int, list[float]]:
    """(right, said, events, delays in seconds): each event takes the first word in its reach."""
    left, delays = sorted(said), []
    for (first, last), begin in zip(stream.events, stream.begins, strict=True):
        reach = [s for s in left if first <= s <= last]
        if reach:
            left.remove(reach[0])
            delays.append((reach[0] - float(begin)) / stream.rate)
    return len(delays), len(said), len(stream.events), delays


def f1(said: Sequence[int], stream: Stream) -> float:
    """Harmonic mean of precision and recall."""
    right, spoke, there, _ = score(said, stream)
    return 2 * right / max(1, spoke + there)


def features(streams: Sequence[Stream], basis: np.ndarray | None = None):
    """([T, D] of each, basis): the picture and its differences, in a few directions each."""
    parts = []
    for s in streams:
        back = [np.concatenate([np.repeat(s.x[:1], n, axis=0), s.x[:-n]]) for n in LAGS]
        parts.append(np.stack([s.x, *(np.abs(s.x - b) for b in back)], axis=1))
    if basis is None:
        every = np.concatenate(parts)
        centred = every - every.mean(axis=0)
        basis = np.stack([
            np.linalg.eigh(centred[:, i].T @ centred[:, i])[1][:, : -WIDTH - 1 : -1].T
            for i in range(every.shape[1])
        ])  # fmt: skip
    made = [np.einsum("tif,ikf->tik", p, basis, optimize=True) for p in parts]
    return [m.reshape(len(m), -1) for m in made], basis


def prepared(streams: Sequence[Stream], which: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(inputs of the linear heads on the other streams, on this one)."""
    x, basis = features([s for i, s in enumerate(streams) if i != which])
    scale = np.concatenate(x).std(axis=0) + 1e-6
    return [a / scale for a in x], features([streams[which]], basis)[0][0] / scale


def linear(x: np.ndarray, y: np.ndarray, classes: int, seed: int, steps: int = 400) -> np.ndarray:
    """Weights [D + 1, C] of a softmax regression, by gradient descent with weight decay."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    w = 0.01 * rng.standard_normal((x.shape[1], classes))
    target = np.eye(classes)[y]
    speed = np.zeros_like(w)
    for _ in range(steps):
        own = rng.integers(0, len(x), 512)
        p = probabilities(x[own], w)
        speed = 0.9 * speed + x[own].T @ (p - target[own]) / len(own) + 1e-3 * w
        w -= 0.1 * speed
    return w


def probabilities(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """[T, D] -> [T, C]."""
    x = x if x.shape[1] == len(w) else np.concatenate([x, np.ones((len(x), 1))], axis=1)
    z = x @ w
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def fired(trigger, signal) -> list[int]:
    """Frames on which a trigger fires."""
    state, said = trigger.begin(), []
    for t, value in enumerate(signal):
        state, speaks = trigger(state, value)
        if speaks:
            said.append(t)
    return said


def verified(factor: float, p: np.ndarray) -> list[int]:
    """LiveStar's loop: the caption is the most likely action, its perplexity 1 / p."""
    trigger, said, caption = Verify(factor), [], 0
    state = trigger.begin()
    for t, own in enumerate(p):
        state, speaks = trigger(state, 1 / max(own[caption], 1e-6))
        if speaks:
            caption = int(own.argmax())
            state = trigger.said(1 / max(own[caption], 1e-6))
            said.append(t)
    return said


def interval(trigger: Interval, p: np.ndarray, pause: int) -> list[int]:
    """Token 0 is silence; words stand in a pause of a second after one."""
    said = []
    for t, own in enumerate(np.log(np.maximum(p, 1e-9))):
        _, token = trigger(None, own)
        if token != trigger.token and (not said or t - said[-1] > pause):
            said.append(t)
    return said


def cascaded(level: float, pause: int, change: np.ndarray, head: np.ndarray, least: float):
    """(frames spoken at, share of frames that the head saw): it looks where much changed."""
    cascade = Cascade(
        lambda t: float(change[t]), lambda t: float(head[t]), Gate(level, repeat=True)
    )
    state, last, said = cascade.begin(), Gate(least, least - 1.0, pause), []
    quiet = last.begin()
    for t in range(len(change)):
        state, found = cascade(state, t)
        quiet, speaks = last(quiet, -1e9 if found is None else found)
        if speaks:
            said.append(t)
    return said, state.ran / max(1, state.looked)


def best(make: Callable[[float], Callable[[int], list[int]]], choices, rest) -> float:
    """The choice with the best F1 over the streams that are not held out."""
    return max(choices, key=lambda c: sum(f1(make(c)(i), s) for i, s in enumerate(rest)))


def held_out(streams: Sequence[Stream], which: int, seed: int, inputs) -> dict[str, list[int]]:
    """Trigger -> frames at which it spoke in stream ``which``, set up on the others."""
    own, rest = streams[which], [s for i, s in enumerate(streams) if i != which]
    pause = int(own.rate)
    said = chance(own, rest, seed) | by_change(own, rest, pause)
    return said | by_heads(own, rest, pause, seed, *inputs)


def chance(own: Stream, rest: Sequence[Stream], seed: int) -> dict[str, list[int]]:
    """As often as there are events elsewhere, without looking."""
    share = np.mean([len(s.events) / len(s.action) for s in rest])
    frames, rng = len(own.action), np.random.default_rng(seed)
    count = max(1, round(share * frames))
    return {
        "at equal intervals": list(range(0, frames, max(1, frames // count))),
        "at random": sorted(rng.choice(frames, count, replace=False).tolist()),
    }


def by_change(own: Stream, rest: Sequence[Stream], pause: int) -> dict[str, list[int]]:
    """Triggers that look at pixels alone; no seed."""
    make = lambda c: lambda i: fired(Gate(c, 0.7 * c, pause), rest[i].change)
    every = np.concatenate([s.change for s in rest])
    level = best(make, np.quantile(every, np.linspace(0.5, 0.99, 20)), rest)
    make = lambda c: lambda i: fired(ChangeTrigger(c, pause=pause), rest[i].dropped)
    share = best(make, np.linspace(0.02, 0.4, 10), rest)
    count = np.mean([len(s.events) / len(s.action) for s in rest])
    return {
        "change, gate with hysteresis": fired(Gate(level, 0.7 * level, pause), own.change),
        "drop ratio, running quantile": fired(ChangeTrigger(share, pause=pause), own.dropped),
        "drop ratio, whole video (not causal)": valleys(own.dropped.tolist(), float(count)),
    }


def by_heads(own, rest, pause: int, seed: int, x, mine) -> dict[str, list[int]]:
    """Triggers on what linear heads say that learned on the other streams."""
    said: dict[str, list[int]] = {}
    classes = max(s.action.max() for s in [own, *rest]) + 1
    w = linear(np.concatenate(x), np.concatenate([s.action for s in rest]), classes, seed)
    p = [probabilities(a, w) for a in x]
    factor = best(lambda c: lambda i: verified(c, p[i]), np.geomspace(1.03, 30, 15), rest)
    said["perplexity of the caption (LiveStar)"] = verified(factor, probabilities(mine, w))

    w = linear(np.concatenate(x), np.concatenate([begun(s) for s in rest]), 2, seed)
    logit = lambda a: np.log(probabilities(a, w) + 1e-9) @ np.array([-1.0, 1.0])
    heads, head = [logit(a) for a in x], logit(mine)
    gate = Gate(0.0, -1.0, pause)
    make = lambda c: lambda i: fired(Speak(gate), heads[i] - c)
    level = best(make, np.quantile(np.concatenate(heads), np.linspace(0.5, 0.99, 20)), rest)
    said["head: speak (Dispider)"] = fired(Speak(gate), head - level)
    some = float(np.quantile(np.concatenate([s.change for s in rest]), 0.7))
    said["cascade: the head, where much changed"], _ = cascaded(
        some, pause, own.change, head, float(level)
    )

    silent = [probabilities(a, w) for a in x]
    every = np.concatenate(silent)[:, 0]
    make = lambda c: lambda i: interval(Interval.calibrated(0, every, c), silent[i], pause)
    share = best(make, np.linspace(0.02, 0.5, 12), rest)
    live = Interval.calibrated(0, every, share)
    said["token of silence, by quantile (LIVE)"] = interval(live, probabilities(mine, w), pause)
    said["token of silence, 0.725 as published"] = interval(
        Interval(0), probabilities(mine, w), pause
    )
    return said


def begun(stream: Stream) -> np.ndarray:
    """[T]: 1 where an event has just begun; where its own beginning is not labelled, all of it."""
    y = np.zeros(len(stream.action), int)
    for begin, (_, last) in zip(stream.begins, stream.events, strict=True):
        whole = last - begin > 3 * stream.rate  # a clip of an interaction, somewhere in it
        y[int(begin) : int(last) + 1 if whole else int(begin) + BEGUN] = 1
    return y
