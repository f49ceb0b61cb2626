"""When to speak, on real streams with labelled events: F1 and delay of each trigger.

    python -m tests.bench.triggers [--data fir_action] [--seeds 3]

Seven thermal streams of a ceiling (FIR-Image-Action, 24 x 32 pixels at 7.8 frames/s): an event is
the beginning of a labelled action (sit down, fall, stand up ...), and to speak at one is right in
the two seconds from there on, once. What a trigger is given is measured, or learned on the
other six streams: the change of the picture, drop ratios of TimeChat-Online's kind, a linear
classifier of actions (whose name is the caption that LiveStar's rule verifies), and a linear head
for "something begins" (Dispider's decision; VideoLLM-online's with a threshold by quantile).
Thresholds are set on the six. Beside them: speaking at equal intervals, and at random, as often as
there are events. It writes results/triggers.md.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from streamzoo.layers.policies.token_drop import TokenDrop
from streamzoo.streaming.triggers import ChangeTrigger, Gate, Interval, Speak, Verify, valleys
from streamzoo.train.datasets.base import exists, located

RATE, REACH, EARLY = 7.8, 2.0, 0.25  # frames/s; seconds after and before an event that are right
LAGS = (1, 4, 8, 16)  # frames back of the differences that the linear heads see
BEGUN = 8  # frames in which something has just begun
OUT = Path(__file__).parent / "results" / "triggers.md"


@dataclass(frozen=True)
class Stream:
    """x [T, 24, 32], brought to one brightness; events: frames; action [T]: its number, 0 none."""

    name: str
    x: np.ndarray
    events: np.ndarray
    action: np.ndarray


def read(folder: Path) -> list[Stream]:
    with np.load(folder / "thermal_24x32_f16.npz") as z:
        films = {k: z[k].astype(np.float32) for k in z.files}
    rows = {
        r[0].removesuffix(".csv"): r[1:] for r in csv.reader((folder / "labels_all126.csv").open())
    }
    names = sorted({w for k in films for w in rows[k][2::3] if w})
    streams = []
    for name, x in films.items():
        parts = rows[name]
        spans = [
            (int(a), int(b), names.index(w) + 1)
            for a, b, w in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
            if a and int(a) < len(x)
        ]
        action = np.zeros(len(x), int)
        for a, b, w in spans:
            action[a:b] = w
        x = (x - np.median(x, axis=(1, 2), keepdims=True)) / 3.0  # kelvins above the room
        streams.append(Stream(name, np.clip(x, -3, 6), np.array([a for a, _, _ in spans]), action))
    return streams


def score(said: Sequence[int], events: np.ndarray) -> tuple[int, int, int, list[float]]:
    """(right, said, events, delays in seconds): each event takes the first word in its reach."""
    left, delays = sorted(said), []
    for event in sorted(events):
        reach = [s for s in left if event - EARLY * RATE <= s <= event + REACH * RATE]
        if reach:
            left.remove(reach[0])
            delays.append((reach[0] - event) / RATE)
    return len(delays), len(said), len(events), delays


def f1(said: Sequence[int], events: np.ndarray) -> float:
    right, spoke, there, _ = score(said, events)
    return 2 * right / max(1, spoke + there)


# --- what triggers are given ----------------------------------------------------------------


def change(stream: Stream) -> np.ndarray:
    """[T]: mean absolute difference to half a second before."""
    back = np.concatenate([np.repeat(stream.x[:1], 4, axis=0), stream.x[:-4]])
    return np.abs(stream.x - back).mean(axis=(1, 2))


def ratios(stream: Stream, threshold: float) -> np.ndarray:
    """[T]: share of 48 cells that DTD would drop, by their pixels, against the last kept ones."""
    cells = (
        stream.x.reshape(-1, 6, 4, 8, 4).transpose(0, 1, 3, 2, 4).reshape(1, len(stream.x), 48, 16)
    )
    drop = TokenDrop(threshold=threshold, by="pixel", reference="last_kept")
    _, stay = drop(drop.init_carry(1, 48, 16), jnp.asarray(cells))
    return 1 - np.asarray(stay)[0].mean(axis=1)


def features(streams: Sequence[Stream], basis: np.ndarray | None = None):
    """([T, D] of each, basis): the picture and its differences, in 24 directions each."""
    parts = []
    for s in streams:
        flat = s.x.reshape(len(s.x), -1)
        back = [np.concatenate([np.repeat(flat[:1], n, axis=0), flat[:-n]]) for n in LAGS]
        parts.append(np.stack([flat, *(np.abs(flat - b) for b in back)], axis=1))
    if basis is None:
        every = np.concatenate(parts)
        basis = np.stack([
            np.linalg.svd(every[::3, i] - every[:, i].mean(axis=0), full_matrices=False)[2][:24]
            for i in range(every.shape[1])
        ])  # fmt: skip
    made = [np.einsum("tif,ikf->tik", p, basis).reshape(len(p), -1) for p in parts]
    return made, basis


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
    x = x if x.shape[1] == len(w) else np.concatenate([x, np.ones((len(x), 1))], axis=1)
    z = x @ w
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


# --- triggers -------------------------------------------------------------------------------


def fired(trigger, signal) -> list[int]:
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


def interval(trigger: Interval, p: np.ndarray) -> list[int]:
    """Token 0 is silence; words stand in a pause of a second after one."""
    said = []
    for t, own in enumerate(np.log(np.maximum(p, 1e-9))):
        _, token = trigger(None, own)
        if token != trigger.token and (not said or t - said[-1] > RATE):
            said.append(t)
    return said


def best(make: Callable[[float], Callable[[int], list[int]]], choices, events) -> float:
    """The choice with the best F1 over the streams that are not held out."""
    total = lambda c: sum(f1(make(c)(i), e) for i, e in enumerate(events))
    return max(choices, key=total)


def prepared(streams: list[Stream], which: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(inputs of the linear heads on the other streams, on this one)."""
    x, basis = features([s for i, s in enumerate(streams) if i != which])
    scale = np.concatenate(x).std(axis=0) + 1e-6
    return [a / scale for a in x], features([streams[which]], basis)[0][0] / scale


def held_out(streams: list[Stream], which: int, inputs, seed: int) -> dict[str, list[int]]:
    """Trigger -> frames at which it spoke in stream ``which``, set up on the others."""
    rest = [s for i, s in enumerate(streams) if i != which]
    own, events = streams[which], [s.events for s in rest]
    rng = np.random.default_rng(seed)
    count = max(1, round(np.mean([len(s.events) / len(s.x) for s in rest]) * len(own.x)))
    said = {
        "at equal intervals": list(range(0, len(own.x), max(1, len(own.x) // count))),
        "at random": sorted(rng.choice(len(own.x), count, replace=False).tolist()),
    }
    pause = int(RATE)

    signal = [change(s) for s in rest]
    make = lambda c: lambda i: fired(Gate(c, 0.7 * c, pause), signal[i])
    level = best(make, np.quantile(np.concatenate(signal), np.linspace(0.5, 0.99, 30)), events)
    said["change, gate with hysteresis"] = fired(Gate(level, 0.7 * level, pause), change(own))

    tau = 0.15
    drops = [ratios(s, tau) for s in rest]
    make = lambda c: lambda i: fired(ChangeTrigger(c, pause=pause), drops[i])
    share = best(make, np.linspace(0.02, 0.4, 15), events)
    said["drop ratio, running quantile"] = fired(
        ChangeTrigger(share, pause=pause), ratios(own, tau)
    )
    said["drop ratio, whole video (not causal)"] = valleys(
        ratios(own, tau).tolist(), count / len(own.x)
    )

    x, mine = inputs
    classes = max(s.action.max() for s in streams) + 1
    labels = np.concatenate([s.action for s in rest])
    w = linear(np.concatenate(x), labels, classes, seed)
    p = [probabilities(a, w) for a in x]
    factor = best(lambda c: lambda i: verified(c, p[i]), np.geomspace(1.03, 30, 25), events)
    said["perplexity of the caption (LiveStar)"] = verified(factor, probabilities(mine, w))

    begun = []
    for s in rest:
        y = np.zeros(len(s.x), int)
        for e in s.events:
            y[e : e + BEGUN] = 1
        begun.append(y)
    w = linear(np.concatenate(x), np.concatenate(begun), 2, seed)
    logit = lambda a: np.log(probabilities(a, w) + 1e-9) @ np.array([-1.0, 1.0])
    heads = [logit(a) for a in x]
    make = lambda c: lambda i: fired(Speak(Gate(0.0, -1.0, pause)), heads[i] - c)
    level = best(make, np.quantile(np.concatenate(heads), np.linspace(0.5, 0.99, 30)), events)
    said["head: speak (Dispider)"] = fired(Speak(Gate(0.0, -1.0, pause)), logit(mine) - level)
    silent = [probabilities(a, w) for a in x]
    every = np.concatenate(silent)[:, 0]
    make = lambda c: lambda i: interval(Interval.calibrated(0, every, c), silent[i])
    share = best(make, np.linspace(0.02, 0.5, 20), events)
    said["token of silence, by quantile (LIVE)"] = interval(
        Interval.calibrated(0, every, share), probabilities(mine, w)
    )
    said["token of silence, 0.725 as published"] = interval(Interval(0), probabilities(mine, w))
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="fir_action")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    exists("--data", args.data, "noahzhy/FIR-Image-Action-Dataset")
    streams = read(located(args.data))
    table: dict[str, list] = {}
    inputs = [prepared(streams, which) for which in range(len(streams))]
    for seed in range(args.seeds):
        sums: dict[str, list] = {}
        for which, stream in enumerate(streams):
            for name, said in held_out(streams, which, inputs[which], seed).items():
                right, spoke, there, delays = score(said, stream.events)
                own = sums.setdefault(name, [0, 0, 0, []])
                own[0], own[1], own[2] = own[0] + right, own[1] + spoke, own[2] + there
                own[3] += delays
        for name, (right, spoke, there, delays) in sums.items():
            row = (2 * right / max(1, spoke + there), right / max(1, spoke), right / there,
                   float(np.median(delays)) if delays else float("nan"), spoke)  # fmt: skip
            table.setdefault(name, []).append(row)
    events = sum(len(s.events) for s in streams)
    frames = sum(len(s.x) for s in streams)
    lines = [
        "# When to speak: seven thermal streams with labelled actions",
        "",
        f"`python -m tests.bench.triggers --seeds {args.seeds}`: {frames} frames, {events} events,"
        f" each stream held out once; right within {REACH:g} s of the beginning of an action (or"
        f" {EARLY:g} s before it). Mean of the seeds, lowest and highest F1.",
        "",
        "| trigger | F1 | lowest | highest | precision | recall | delay, s (median) | spoke |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in table.items():
        a = np.asarray(rows)
        both, precision, recall, delay, spoke = a.mean(axis=0)
        lines.append(
            f"| {name} | {both:.2f} | {a[:, 0].min():.2f} | {a[:, 0].max():.2f} |"
            f" {precision:.2f} | {recall:.2f} | {delay:.2f} | {spoke:.0f} |"
        )
    args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
