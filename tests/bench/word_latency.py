"""How long after it was spoken a word is final: streaming recognisers on read sentences.

    python tests/bench/word_latency.py                # all rows, writes results/word_latency.*
    python tests/bench/word_latency.py --only live    # those whose name has this word

The 8 read sentences of ../shared/data/speech, each with a second of silence behind it, go through
`Listener` as `streamzoo listen` has it: voice detector, utterances, words that stay. A word's end
is not the recogniser's own but that of the transcript's word, where Whisper's cross attention has
it (offline, over the whole sentence). A word counts where transcript and text have the same one
(Levenshtein). Latency is that of the sound alone: seconds that were heard when
the word was final, less the second at which it ended; what computing takes is the other column,
seconds of the processor per second of sound, one thread.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# before JAX: one thread
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

import streamzoo
from streamzoo.streaming.listening import RATE, Cutting, Listener
from streamzoo.streaming.sources.sound import sound_of
from streamzoo.streaming.writers import writer
from streamzoo.tests.bench.transcripts import machine, words
from streamzoo.zoo.files import save
from streamzoo.zoo.packages import installed
from streamzoo.zoo.registry import model_card
from streamzoo.zoo.speech.whisper.model import HOP
from streamzoo.zoo.speech.whisper.transcribe import Transcriber, read_prompt
from streamzoo.zoo.speech.word_times import spans

HERE = Path(__file__).resolve().parent
SPEECH = HERE.parents[2] / "shared/data/speech"
WHISPER, LIVE, MOONSHINE = "whisper-tiny/en", "moonshine-live-base/en", "moonshine-base/en"


@dataclasses.dataclass(frozen=True)
class Row:
    """A recogniser and how it is heard; ``look`` and ``chunk`` make a file of its weights."""

    name: str
    every: float | None
    says: str
    look: tuple[int, int] | None = None
    chunk: int | None = None


ROWS = (
    Row(LIVE, 0.24, "a text every 0.24 s; hop 5, 5 behind it: features final after 216 ms",
        look=(5, 5)),
    Row(LIVE, 0.48, "a text every 0.48 s; hop 10, 10 behind it: final after 456 ms",
        look=(10, 10)),
    Row(LIVE, 0.24, "a text every 0.24 s; hop 5, 15 behind it: final after 456 ms",
        look=(5, 15)),
    Row(MOONSHINE, 0.5, "all of the utterance again every 0.5 s"),
    Row(MOONSHINE, 0.0, "whole utterances"),
    Row(WHISPER, 0.5, "all of the utterance again every 0.5 s"),
    Row(WHISPER, 0.0, "whole utterances"),
    Row("carelesswhisper-tiny", None, "Whisper's weights, not taught so: chunks of 1 s", chunk=50),
    Row("carelesswhisper-tiny", None, "Whisper's weights, not taught so: chunks of 300 ms",
        chunk=15),
)  # fmt: skip


def named(row: Row, folder: Path) -> str:
    """A name or a file of the row's model."""
    if row.look is not None and row.look != (10, 10):
        model, params = streamzoo.load(row.name, hop=row.look[0], ahead=row.look[1])
        facts = {"model": row.name.split("/")[0], "config": model.config}
    elif row.chunk is not None:
        model, params = streamzoo.load(WHISPER)
        config = dataclasses.replace(model.config, chunk=row.chunk)
        facts = {"model": row.name, "config": config}
    else:
        return row.name
    path = folder / f"{abs(hash(row))}.safetensors"
    save(path, params, facts)
    return str(path)


class Spoken:
    """Where the words of a transcript end, by Whisper's cross attention."""

    def __init__(self) -> None:
        file = installed(model_card(WHISPER).source)
        self.model: Any
        self.model, self.params = streamzoo.load(WHISPER)
        prompt = read_prompt(file.with_name("config.json"), self.model.config.vocabulary)
        self.own = Transcriber(self.model, self.params, file.with_name("tokenizer.json"), prompt)
        self.encode = jax.jit(lambda a: self.model.apply(self.params, a, method="encode")[0])

    def __call__(self, audio: np.ndarray, said: str) -> list[tuple[str, float]]:
        """(word, the second at which it ends) of each."""
        numbers = self.own.tokenizer.encode(f" {said}", add_special_tokens=False).ids
        window = np.pad(audio, (0, self.model.config.samples - len(audio)))[None]
        prompt = self.own.prompt.tokens
        found = spans(self.model, self.params, np.asarray(self.encode(window)), len(audio) // HOP,
                      numbers, prompt, len(prompt) + 128)  # fmt: skip
        return [
            (word, float(found[last - 1, 1]) * HOP / RATE)
            for text, _, last in self.own.words(numbers)
            for word in words(text)
        ]


def matched(a: list[str], b: list[str]) -> tuple[int, list[tuple[int, int]]]:
    """(edits from a to b, places of the words that both have on one shortest way)."""
    cost = np.zeros((len(a) + 1, len(b) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (x != y))
    i, j, pairs = len(a), len(b), []
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            pairs += [(i, j)] * (a[i] == b[j])
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(cost[-1, -1]), pairs[::-1]


def heard(begin: Callable[[], Any], audio: np.ndarray) -> list[tuple[str, float, bool]]:
    """(word, seconds heard when it was final, whether its utterance went on) of a sentence."""
    listener = Listener(cutting=Cutting(longest=15.0, every=0.0), begin=begin)
    said, size = [], RATE // 50
    parts = [audio[at : at + size] for at in range(0, len(audio), size)]
    found = [u for part in parts for u in listener.push(part)]
    for u in [*found, *listener.flush()]:
        for word in u.words[len(u.words) - u.fresh :]:
            said += [(one, u.heard, not u.final) for one in words(word.text)]
    return said


def measure(row: Row, sentences: list[tuple[np.ndarray, str]], ends: list[Any], folder: Path):
    begin = writer(named(row, folder), 15.0, row.every)
    begin().prepare()
    heard(begin, sentences[0][0][: 2 * RATE])  # compiled
    wrong = total = 0
    late, going, texts, began = [], 0, [], time.process_time()
    for (audio, said), spoken in zip(sentences, ends, strict=True):
        found = heard(begin, np.pad(audio, (0, RATE)))
        edits, pairs = matched(words(said), [w for w, _, _ in found])
        wrong, total = wrong + edits, total + len(words(said))
        texts.append(" ".join(w for w, _, _ in found))
        assert [w for w, _ in spoken] == words(said), said
        late += [found[j][1] - spoken[i][1] for i, j in pairs]
        going += sum(found[j][2] for _, j in pairs)
    taken = time.process_time() - began
    seconds = sum(len(audio) + RATE for audio, _ in sentences) / RATE
    p50, p90, p99 = (float(np.percentile(late, q)) for q in (50, 90, 99)) if late else (0.0,) * 3
    return {
        "name": row.name, "says": row.says, "wer": wrong / total, "words": len(late),
        "p50": p50, "p90": p90, "p99": p99, "going": going / max(1, len(late)),
        "cost": taken / seconds, "texts": texts,
    }  # fmt: skip


def report(rows: list[dict[str, Any]], sentences: int, count: int) -> str:
    """The results as Markdown."""
    lines = [
        "# How long after it was spoken a word is final",
        "",
        f"`python tests/bench/word_latency.py`; {machine()}, one thread. {sentences} read"
        f" sentences, {count} words, through `Listener` with its voice detector; latency is that of"
        " the sound, without computing; ends of words by Whisper's cross attention over the"
        " transcripts. An utterance ends 0.5 s after its last speech: what is final only then"
        " waits for it. Words are final when two texts in a row agree. (With hop 5, 5 behind it and"
        " texts 0.24 s apart many are wrong, 5.2 % as a clip; three texts that agree are no better:"
        " 20.7 %, p50 0.94 s.)",
        "",
        "| recogniser | how it hears | word errors | p50, s | p90 | p99 | final while the utterance"
        " went on | processor, s per s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| `{r['name']}` | {r['says']} | {r['wer']:.1%} | {r['p50']:.2f} | {r['p90']:.2f} |"
            f" {r['p99']:.2f} | {r['going']:.0%} of {r['words']} | {r['cost']:.2f} |"
        )
    lines += [
        "",
        "The two offline rows are the references: their tokens are those of ONNX Runtime over the"
        " published Moonshine ([table](transcripts.md)) and of transformers over the same Whisper"
        " (`tests/zoo/test_whisper.py`). CarelessWhisper's own weights, FastConformer's, ANCAT's"
        " and Moonshine v2's are in no package that was found: the command hears the first with"
        " Whisper's, which never learned to hear in chunks, the others are not here.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--only", default="", help="rows whose name has this word")
    p.add_argument("--out", type=Path, default=HERE / "results/word_latency.json")
    args = p.parse_args()
    with open(SPEECH / "transcripts.tsv", encoding="utf-8") as file:
        listed = [row[:2] for row in csv.reader(file, delimiter="\t")]
    listed = [row for row in listed if not row[0].startswith(("an4", "grid"))]
    sounds = [np.concatenate([*sound_of(SPEECH / n, say=lambda _: None)]) for n, _ in listed]
    sentences = [(audio, said) for audio, (_, said) in zip(sounds, listed, strict=True)]
    spoken = Spoken()
    ends = [spoken(audio, said) for audio, said in sentences]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            if args.only in row.name:
                rows.append(measure(row, sentences, ends, Path(folder)))
                print({k: v for k, v in rows[-1].items() if k != "texts"}, flush=True)
    count = sum(len(words(said)) for _, said in sentences)
    text = report(rows, len(sentences), count)
    args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
