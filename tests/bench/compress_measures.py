"""How each bundled model is measured by ``compress.py``: its own metric, on data it did not learn
from, on a part that an hour suffices for."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo import zoo
from streamzoo.train.evaluate import evaluate

from . import persons, track, transcripts

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measure:
    """``run(name, weights file, overrides)`` gives figures, ``metric`` among them, shown times
    ``scale``."""

    run: Callable[[str, Path, Fields], dict[str, float]]
    metric: str
    about: str
    scale: float = 100.0


class Every:
    """Every ``step``-th video of a source."""

    def __init__(self, source: Any, step: int):
        self._source, self._step = source, step

    def __len__(self) -> int:
        return len(range(0, len(self._source), self._step))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, video: int, *args: Any, **kwargs: Any) -> Any:
        return self._source.read(video * self._step, *args, **kwargs)

    def length(self, video: int) -> int:
        return self._source.length(video * self._step)


def source(name: str) -> Any:
    """Test data of an action model."""
    from streamzoo.configs import egogestar_student, synth_student, ucf11_student, ut_student

    config, changes, step = {
        "tsa-lite0/synth": (synth_student.CONFIG, {"videos": 20}, 1),
        "dsta-lite0/ucf11": (ucf11_student.CONFIG, {}, 3),
        "dsta-lite0/ut": (ut_student.CONFIG, {"path": str(SHARED / "ut_interaction")}, 3),
        "rglru-palm/egogestar": (
            egogestar_student.CONFIG, {"path": str(SHARED / "egogestar")}, 2),
    }[name]  # fmt: skip
    assert config.test is not None
    test: Any = dataclasses.replace(config.test, **changes)
    return Every(test.open(config.cache), step)


def actions(name: str, path: Path, overrides: Fields) -> dict[str, float]:
    """The recipe's own evaluation, through the carry."""
    model, params, card = zoo.resolve(path, **overrides)
    data = source(name)
    card = dataclasses.replace(card, multi_label=data.multi_label)
    figures = evaluate(model, params, card, data)
    return {k: v for k, v in figures.items() if isinstance(v, float) and v == v}


def detector(name: str, path: Path, overrides: Fields) -> dict[str, float]:
    """Persons of Penn-Fudan."""
    found = persons.measure(persons.detector(str(path), threshold=0.01, **overrides), "pennfudan")
    recall, precision = persons.at(found, 0.3)
    return {"recall": recall, "precision": precision}


def tracker(name: str, path: Path, overrides: Fields) -> dict[str, float]:
    """J&F on the first 24 frames of two held-out sequences, from a mask."""
    from streamzoo.streaming.step import Step
    from streamzoo.train.data.davis import Davis

    davis = Davis(SHARED / "davis16_val_240p.zip", list(track.HELD_OUT[:2]))
    clips = {name: davis.read(i) for i, name in enumerate(davis.videos)}
    clips = {n: type(c)(c.frames[:24], c.masks[:24]) for n, c in clips.items()}
    found = track.measure(track.Stream(Step(*zoo.resolve(path, **overrides)), "mask"), clips)
    return {k: found[k] for k in ("J&F", "J", "F")}


def words(name: str, path: Path, overrides: Fields) -> dict[str, float]:
    """Word error rate on the first 8 read sentences."""
    from streamzoo.streaming.sources.sound import sound_of
    from streamzoo.zoo.packages import installed
    from streamzoo.zoo.speech.moonshine.transcribe import Transcriber

    model: Any
    model, params, _ = zoo.resolve(path, **overrides)
    folder = installed(zoo.model_card(name).source).parent
    transcribe = Transcriber(model, params, folder / "tokenizer.bin")
    speech = SHARED / "speech"
    with open(speech / "transcripts.tsv", encoding="utf-8") as file:
        listed = [r[:2] for r in csv.reader(file, delimiter="\t") if r[0].startswith("libri")][:8]
    wrong = count = 0
    for file_name, said in listed:
        audio = np.concatenate([*sound_of(speech / file_name, say=lambda _: None)])
        wanted = transcripts.words(said)
        wrong += transcripts.edits(wanted, transcripts.words(transcribe(audio).text))
        count += len(wanted)
    return {"WER": wrong / count, "words": float(count)}


def language(name: str, path: Path, overrides: Fields) -> dict[str, float]:
    """Perplexity of 192 tokens of this repository's README, after the first 64."""
    from streamzoo.zoo.packages import installed
    from streamzoo.zoo.text.tokenizer import Tokenizer

    model, params, _ = zoo.resolve(path, context=256, **overrides)
    tokenizer = Tokenizer.read(installed(zoo.model_card(name).source))
    text = (ROOT / "README.md").read_text().split("## Where to go next")[0]
    tokens = np.asarray(tokenizer.words(text)[:257], np.int32)[None]
    _, logits = jax.jit(model.apply)(params, model.init_carry(1), tokens[:, :-1])
    said = np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)[0]))
    each = said[np.arange(256), tokens[0, 1:]]
    return {"perplexity": float(np.exp(-each[64:].mean()))}


MODELS = {
    "tsa-lite0/synth": Measure(actions, "mAP", "mAP on 20 drawn videos of 12 s at 5 frames/s"),
    "dsta-lite0/ucf11": Measure(
        actions, "top1", "top1 on every third of the 316 test clips of 5 frames"
    ),
    "dsta-lite0/ut": Measure(actions, "top1", "top1 on every third test clip of fold 1"),
    "rglru-palm/egogestar": Measure(
        actions, "top1_last", "top1 at the end of every second test clip"
    ),
    "yolox-nano/coco": Measure(
        detector, "recall", "recall on 142 pictures of Penn-Fudan, threshold 0.3"
    ),
    "tracker-lite0/davis": Measure(
        tracker, "J&F", "J&F on the first 24 frames of two held-out DAVIS sequences, from a mask"
    ),
    "moonshine-base/en": Measure(
        words, "WER", "word error rate on 8 read sentences (less is better)"
    ),
    "smollm2-135m/instruct": Measure(
        language, "perplexity", "perplexity of 192 tokens of the README (less is better)", 1.0
    ),
}
