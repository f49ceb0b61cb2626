"""The recipe of streaming speech: an offline recogniser teaches one that hears as it is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from .. import zoo
from ..zoo.ranges import Checked, Count, Positive, Range, Share, Whole
from ..zoo.speech.moonshine.live import MoonshineLive
from ..zoo.speech.moonshine.model import MoonshineConfig, features_of
from .base import BaseRecipe, header, shared
from .data.base import DataError
from .data.utterances import RATE, Taught, recordings, taught
from .loop import Job, LoopConfig
from .tasks.hear import Hear, HearConfig

PACE = 6.5  # tokens a second that speech has at most


@dataclasses.dataclass(frozen=True)
class Recordings(Checked):
    """Sound files to learn from, without labels.

    Attributes:
      path: a folder of them, searched to the bottom.
      longest: seconds of an utterance; longer ones are cut where it is quiet.
      held_out: words; files whose path has one of them are measured on, not learned from.
      sizes: lengths of the batches, as shares of ``longest``; an utterance is in the shortest
        that it fits.
      louder: largest change of loudness, in nepers, up or down.
      tested: utterances that are measured at most.
    """

    path: str = ""
    longest: Positive = 8.0
    held_out: tuple[str, ...] = ()
    sizes: tuple[Share, ...] = (0.6, 0.8, 1.0)
    louder: Annotated[float, Range(0, 3)] = 0.4
    tested: Count = 24


class Batches:
    """Batches by number: utterances of one size together, each once in an epoch.

    Args:
      data: what is learned from.
      config: its sizes.
      batch: utterances of a batch; ``mine`` of them are drawn here.
      share: how often each look-ahead is drawn.
    """

    def __init__(
        self, data: Taught, config: Recordings, batch: int, mine: range, share: tuple[float, ...],
        start: int, end: int, seed: int,
    ):  # fmt: skip
        self.data, self.mine, self.batch, self.share = data, mine, batch, share
        self.start, self.end, self.seed, self.louder = start, end, seed, config.louder
        self.samples = [int(config.longest * size * RATE) for size in sorted(config.sizes)]
        lengths = np.diff(data.ends[:, 0], prepend=0)
        if lengths.max() > self.samples[-1]:
            raise DataError("data.sizes: the last should be 1, all of data.longest")
        self.size = np.searchsorted(self.samples, lengths)
        self.per = len(data) // batch
        if not self.per:
            raise DataError(f"{len(data)} utterances are fewer than loop.batch={batch}")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        step = 0
        while True:
            yield self[step]
            step += 1

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, number = divmod(step, self.per)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data))
        order = order[np.argsort(self.size[order], kind="stable")][: self.per * self.batch]
        rows = order.reshape(self.per, self.batch)
        rows = rows[np.random.default_rng((self.seed, epoch, 1)).permutation(self.per)]
        samples = self.samples[self.size[rows[number]].max()]
        frames, room = features_of(samples), int(PACE * samples / RATE) + 2
        rng = np.random.default_rng((self.seed, step, 2))
        look, gains = rng.choice(len(self.share), p=self.share), rng.uniform(-1, 1, self.batch)
        mine, width = len(self.mine), self.data.features.shape[1]
        out = {
            "audio": np.zeros((mine, samples), np.float32),
            "lengths": np.zeros(mine, np.int32),
            "features": np.zeros((mine, frames, width), np.float32),
            "tokens": np.full((mine, room), self.end, np.int32),
            "written": np.zeros(mine, np.int32),
            "look": np.full(mine, look, np.int32),
        }
        out["tokens"][:, 0] = self.start
        for row, place in enumerate(self.mine):
            audio, features, tokens = self.data[rows[number][place]]
            tokens = tokens[: room - 1]
            out["audio"][row, : len(audio)] = audio * np.exp(self.louder * gains[place])
            out["lengths"][row], out["written"][row] = len(audio), len(tokens)
            out["features"][row, : len(features)] = features
            out["tokens"][row, 1 : 1 + len(tokens)] = tokens
        return out


@dataclasses.dataclass(frozen=True)
class HearingRecipe(BaseRecipe):
    """A streaming Moonshine learns from the offline one whose weights it begins with.

    Attributes:
      data: recordings.
      teacher: name or file of a Moonshine.
      past: features that the student remembers.
      hear: what is learned.
    """

    data: Recordings = Recordings()
    teacher: str = "moonshine-base/en"
    past: Whole = 750
    hear: HearConfig = HearConfig()
    loop: LoopConfig = LoopConfig(steps=400, batch=4, out="runs/moonshine_live")

    def check(self) -> None:
        if not self.data.path:
            raise DataError("say where the recordings are: --set data.path=FOLDER")

    def job(self) -> Job:
        model, variables = zoo.load(self.teacher)
        files = recordings(self.data.path)
        apart = [f for f in files if any(word in str(f) for word in self.data.held_out)]
        learned = [f for f in files if f not in set(apart)]
        if not learned:
            raise DataError("data.held_out leaves no recording to learn from")
        hears, cache = teacher_of(model, variables, self.data.longest), Path(self.loop.out)
        make = lambda files: taught(files, self.data.longest, hears, self.teacher, cache)
        data, held = make(learned), make(apart) if apart else None
        hop, ahead = self.hear.looks[0]
        fields: dict[str, Any] = dataclasses.asdict(model.config) | dict(
            hop=hop, ahead=ahead, past=self.past
        )
        student = MoonshineLive(MoonshineConfig(**fields))
        scale = float(data.features[:: 1 + len(data.features) // 4096].astype(np.float32).var())
        card = zoo.card_of(self.teacher)
        measure = None if held is None else self.measure(student, held)
        task = Hear(student, card, variables, self.hear, scale, evaluate=measure)
        task.header = header("moonshine-live-base", fields)
        c = model.config

        def batches(host: int, hosts: int) -> Iterator[Any]:
            mine = shared(self.loop.batch, host, hosts)
            seed = self.loop.seed
            drawn = Batches(
                data, self.data, self.loop.batch, mine, self.hear.share, c.start, c.end, seed
            )
            return iter(drawn)

        return Job(task, batches)

    def measure(self, student: MoonshineLive, held: Taught) -> Any:
        """Variables -> share of the teacher's tokens that the student's text misses or adds."""

        def scores(variables: Any) -> dict[str, float]:
            wrong = total = 0
            hears = teacher_of(student, variables, self.data.longest)
            for index in range(min(len(held), self.data.tested)):
                audio, _, tokens = held[index]
                wrong += edits(hears(audio)[1], tokens.tolist())
                total += len(tokens)
            return {"token_errors": wrong / max(total, 1)}

        return scores


def edits(a: list[int], b: list[int]) -> int:
    """Inserted, left out and changed (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def teacher_of(model: Any, variables: Any, longest: float) -> Any:
    """Audio [T] float32 -> (features [F, D], tokens) by a Moonshine, offline or the clip of a
    stream."""
    from ..zoo.speech.written import best_tokens

    samples, encode = int(longest * RATE), jax.jit(model.apply, static_argnames="method")
    room = int(PACE * longest) + 1

    def hears(audio: np.ndarray) -> tuple[np.ndarray, list[int]]:
        padded = np.zeros((1, samples), np.float32)
        padded[0, : len(audio)] = audio
        lengths = np.asarray([len(audio)], np.int32)
        x, seen = encode(variables, padded, lengths, method="encode")
        limit = np.asarray([int(PACE * len(audio) / RATE) + 1], np.int32)
        tokens, count = best_tokens(model, variables, padded, lengths, limit, room)
        return np.asarray(x)[0, : int(seen.sum())], np.asarray(tokens)[0, : int(count[0])].tolist()

    return hears
