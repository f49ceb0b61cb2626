"""Real streams with labelled events, for the bench of triggers; what is slow is kept on disk.

Seven thermal streams of a ceiling (FIR-Image-Action, 24 x 32 pixels, 7.8 frames/s): an event is the
beginning of a labelled action, and to speak at one is right in the two seconds from there on.

Eight streams of two persons in a car park (UT-Interaction, set 1, segmented): the clips of a
sequence one after the other in an order that is drawn once, interactions and walking about. An
event is a clip of an interaction, and to speak once in it is right; the cut before it is no help,
as one stands before every clip.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import streamzoo
from streamzoo.layers.policies.token_drop import TokenDrop
from streamzoo.train.data import video
from streamzoo.train.data.ut_interaction import parse
from streamzoo.zoo.preprocess import preprocess

REACH, EARLY = 2.0, 0.25  # seconds after and before the beginning of a thermal event
ENCODER = "efficientnet-lite0/imagenet"
UT_RATE, BACKGROUND = 8.0, 6  # frames/s; the class of clips in which nothing happens
BACK = 4  # frames, half a second: a change is told against then
GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Stream:
    """A stream of T frames.

    Attributes:
      name: of the file, or the sequence.
      rate: frames/s.
      events: [N, 2], the first and the last frame at which it is right to speak.
      begins: [N], where the events begin; delays count from there.
      action: [T], number of what is under way, 0 for nothing.
      x: [T, D], of which linear heads learn.
      change: [T], mean absolute difference to half a second before.
      dropped: [T], share of 48 cells that DTD would drop by their pixels.
    """

    name: str
    rate: float
    events: np.ndarray
    begins: np.ndarray
    action: np.ndarray
    x: np.ndarray
    change: np.ndarray
    dropped: np.ndarray


def streams(data: str, folder: Path, kept: Path) -> list[Stream]:
    """The streams of ``fir_action`` or ``ut_interaction``, with their signals, from ``kept`` where
    they were read before."""
    file = kept / f"{data}.npz"
    if not file.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        made = thermal(folder) if data == "fir_action" else interactions(folder)
        flat = {f"{s.name}/{k}": v for s in made for k, v in vars(s).items() if k != "name"}
        np.savez(file, **flat)
    with np.load(file) as z:
        names = list(dict.fromkeys(key.split("/")[0] for key in z.files))
        fields = list(Stream.__dataclass_fields__)[1:]
        found = [{k: z[f"{name}/{k}"] for k in fields} for name in names]
    return [
        Stream(name, float(own.pop("rate")), **own) for name, own in zip(names, found, strict=True)
    ]


def thermal(folder: Path) -> list[Stream]:
    """FIR-Image-Action."""
    with np.load(folder / "thermal_24x32_f16.npz") as z:
        films = {k: z[k].astype(np.float32) for k in z.files}
    with (folder / "labels_all126.csv").open() as file:
        rows = {r[0].removesuffix(".csv"): r[1:] for r in csv.reader(file)}
    names = sorted({w for k in films for w in rows[k][2::3] if w})
    rate = 7.8
    found: list[Any] = []
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
        begins = np.array([a for a, _, _ in spans])
        events = np.stack([begins - EARLY * rate, begins + REACH * rate], axis=1)
        x = (x - np.median(x, axis=(1, 2), keepdims=True)) / 3.0  # kelvins above the room
        found.append((name, rate, events, begins, action, np.clip(x, -3, 6)))
    dropped = ratios([f[-1] for f in found], 0.15)
    return [
        Stream(*told, x=x.reshape(len(x), -1), change=change(x), dropped=own)
        for (*told, x), own in zip(found, dropped, strict=True)
    ]


def interactions(folder: Path) -> list[Stream]:
    """UT-Interaction, set 1."""
    paths = {p.stem: p for p in video.find(folder / "set1")}
    clips, _ = video.load(paths, (224, 224), UT_RATE)
    order = np.random.default_rng(0)
    found: list[Any] = []
    small: list[np.ndarray] = []
    for sequence in sorted({parse(p)[1] for p in paths.values()}):
        own = [n for n in clips if parse(paths[n])[1] == sequence]
        own = [own[i] for i in order.permutation(len(own))]
        labels = [parse(paths[n])[2] for n in own]
        ends = np.cumsum([len(clips[n]) for n in own])
        spans = np.stack([np.concatenate([[0], ends[:-1]]), ends - 1], axis=1)
        there = np.array([label != BACKGROUND for label in labels])
        action = np.concatenate([
            np.full(len(clips[n]), 0 if label == BACKGROUND else label + 1)
            for n, label in zip(own, labels, strict=True)
        ])  # fmt: skip
        frames = np.concatenate([clips[n] for n in own])
        told = (f"sequence{sequence}", UT_RATE, spans[there], spans[there, 0], action)
        found.append((*told, encoded(frames)))
        grey = frames[:, :, : 32 * 7].astype(np.float32) @ GREY / 255
        small.append(grey[:, :216].reshape(len(grey), 24, 9, 32, 7).mean(axis=(2, 4)))
    dropped = ratios(small, 0.02)
    return [
        Stream(*told, change=change(x), dropped=own)
        for told, x, own in zip(found, small, dropped, strict=True)
    ]


def encoded(frames: np.ndarray, part: int = 16) -> np.ndarray:
    """uint8 [T, 224, 224, 3] -> [T, 1280], features of a frozen encoder."""
    model, params = streamzoo.load(ENCODER)
    card = streamzoo.model_card(ENCODER)
    apply: Any = model.apply
    look = lambda x: apply(params, preprocess(x, card), method="features").mean(axis=(1, 2))
    see = jax.jit(look)
    padded = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % part, axis=0)])
    found = [np.asarray(see(padded[at : at + part])) for at in range(0, len(padded), part)]
    return np.concatenate(found)[: len(frames)]


def change(x: np.ndarray) -> np.ndarray:
    """[T, h, w] -> [T]."""
    back = np.concatenate([np.repeat(x[:1], BACK, axis=0), x[:-BACK]])
    return np.abs(x - back).mean(axis=(1, 2))


def ratios(films: Sequence[np.ndarray], threshold: float) -> list[np.ndarray]:
    """[T, 24, 32] each -> [T] each: cells against those in which they were last kept."""
    most = max(map(len, films))
    cells = np.stack([np.pad(x, ((0, most - len(x)), (0, 0), (0, 0))) for x in films])
    cells = cells.reshape(len(films), most, 6, 4, 8, 4).transpose(0, 1, 2, 4, 3, 5)
    drop = TokenDrop(threshold=threshold, by="pixel", reference="last_kept")
    run = jax.jit(lambda x: drop(drop.init_carry(len(films), 48, 16), x)[1])
    stay = np.asarray(run(cells.reshape(len(films), most, 48, 16)))
    return [1 - stay[i, : len(x)].mean(axis=1) for i, x in enumerate(films)]
