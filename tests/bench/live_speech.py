"""Words of a streaming Moonshine beside those of the offline one, on read sentences.

    python tests/bench/live_speech.py                            # the published weights
    python tests/bench/live_speech.py moonshine-live-base/en     # and others, names or files
    python tests/bench/live_speech.py moonshine-live-base/en --add    # rows that the file lacks

Every row has the same decoder and the same 8 recordings of ../shared/data/speech. *re-encoded*: the
offline encoder hears all that has come, every hop anew, and the features of a hop are taken when
the row's look-ahead behind it is heard, as a stream without a streaming encoder would do. Looks are
(features of a hop, features behind it), 24 ms each; the latency is that of the last sample of a
hop's first feature. Seconds are the processor's, one thread, of the encoder, per second of sound.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import json
import math
import os
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
from streamzoo.streaming.sources.sound import RATE, sound_of
from streamzoo.tests.bench.transcripts import edits, machine, words
from streamzoo.zoo.packages import installed
from streamzoo.zoo.registry import model_card
from streamzoo.zoo.speech.moonshine.live import MoonshineLive
from streamzoo.zoo.speech.moonshine.model import features_of
from streamzoo.zoo.speech.moonshine.tokens import Tokens
from streamzoo.zoo.speech.written import best_of

HERE = Path(__file__).resolve().parent
SPEECH = HERE.parents[2] / "shared/data/speech"
NAME, PACE = "moonshine-base/en", 6.5
LOOKS = ((5, 0), (5, 5), (20, 0), (10, 10), (5, 15), (2, 18), (20, 20))
SIZES = [n * RATE for n in (4, 8, 12)]


def padded(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One stream of the next size up, and its length."""
    size = next(size for size in SIZES if size >= len(audio))
    return np.pad(audio, (0, size - len(audio)))[None], np.asarray([len(audio)], np.int32)


class Text:
    """Features -> words, by the decoder of one model."""

    def __init__(self, model: Any, params: Any):
        self.model, self.params = model, params
        folder = installed(model_card(NAME).source).parent
        self.tokens = Tokens.read(folder / "tokenizer.bin")

    def __call__(self, features: np.ndarray, seconds: float) -> str:
        room = features_of(SIZES[-1])
        x = np.zeros((1, room, features.shape[1]), np.float32)
        x[0, : len(features)] = features
        seen = np.arange(room)[None] < len(features)
        limit = np.asarray([math.ceil(PACE * seconds)], np.int32)
        most = math.ceil(PACE * SIZES[-1] / RATE)
        out, count = best_of(self.model, self.params, x, seen, limit, most)
        return self.tokens.text(np.asarray(out)[0, : int(count[0])].tolist())


def encoder(model: Any, params: Any) -> Any:
    """audio [T] -> features [F, D]."""
    apply = jax.jit(lambda audio, lengths: model.apply(params, audio, lengths, method="encode"))

    def encode(audio: np.ndarray) -> np.ndarray:
        x, seen = apply(*padded(audio))
        return np.asarray(x)[0, : int(seen.sum())]

    for size in SIZES:
        encode(np.zeros(size, np.float32))
    return encode


def again(encode: Any, audio: np.ndarray, hop: int, ahead: int) -> np.ndarray:
    """Features of the offline encoder, those of a hop when ``ahead`` behind it are heard."""
    total, parts = features_of(len(audio)), []
    for start in range(0, total, hop):
        heard = min(len(audio), (start + hop + ahead - 1) * 384 + 895)
        parts.append(encode(audio[:heard])[start : start + hop])
    return np.concatenate(parts)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("weights", nargs="*", help="files of streaming weights, beside the published")
    p.add_argument("--out", type=Path, default=HERE / "results/live_speech.json")
    p.add_argument("--add", action="store_true", help="keep the file's rows, measure the others")
    args = p.parse_args()
    model, params = streamzoo.load(NAME)
    write = Text(model, params)
    with open(SPEECH / "transcripts.tsv", encoding="utf-8") as file:
        listed = [row[:2] for row in csv.reader(file, delimiter="\t")]
    listed = [row for row in listed if not row[0].startswith(("an4", "grid"))]
    sounds = [np.concatenate([*sound_of(SPEECH / n, say=lambda _: None)]) for n, _ in listed]
    sounds = [audio[: SIZES[-1]] for audio in sounds]
    rows: list[dict[str, Any]] = json.loads(args.out.read_text())["rows"] if args.add else []
    known = {(row["name"], row["look"] and tuple(row["look"])) for row in rows}

    def measure(name: str, look: tuple[int, int] | None, make: Callable[[], Any]) -> None:
        if (name, look) in known:
            return
        encode = make()
        wrong = total = 0
        texts, began = [], time.process_time()
        features = [encode(audio) for audio in sounds]
        taken = time.process_time() - began
        for x, audio, (_, said) in zip(features, sounds, listed, strict=True):
            texts.append(write(x, len(audio) / RATE))
            wrong += edits(words(said), words(texts[-1]))
            total += len(words(said))
        late = None if look is None else 24 * (sum(look) - 1)
        cost = taken / sum(map(len, sounds)) * RATE
        rows.append(
            dict(name=name, look=look, late=late, wer=wrong / total, cost=cost, texts=texts)
        )
        print(f"{name} {look}: WER {wrong / total:.1%}, {cost:.3f} s per second", flush=True)

    offline = functools.cache(lambda: encoder(model, params))
    measure("offline", None, offline)
    looks = {NAME: ((20, 0), (10, 10), (2, 18))} | dict.fromkeys(args.weights, LOOKS)
    for name in (NAME, *args.weights):
        own = params if name == NAME else streamzoo.load(name)[1]
        for hop, ahead in looks[name]:
            config = dataclasses.replace(model.config, hop=hop, ahead=ahead)
            live = MoonshineLive(config)
            measure(name, (hop, ahead), functools.partial(encoder, live, own))
    measure("re-encoded", (10, 10), lambda: lambda audio: again(offline(), audio, 10, 10))
    order = {"offline": 0, NAME: 1, "re-encoded": 9}
    rows.sort(
        key=lambda row: (order.get(row["name"], 2), row["late"] or 0, tuple(row["look"] or ()))
    )
    args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(report(rows, listed))
    print("\n" + report(rows, listed))


def report(rows: list[dict], listed: list) -> str:
    """The results as Markdown."""
    count = sum(len(words(said)) for _, said in listed)
    lines = [
        "# A streaming Moonshine and the offline one",
        "",
        f"`python tests/bench/live_speech.py`; {machine()}, one thread. {len(listed)} read"
        f" sentences, {count} words.",
        "",
        "| weights | hop, behind it (24 ms each) | latency | word errors | encoder, s per s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        look = "all" if row["look"] is None else f"{row['look'][0]}, {row['look'][1]}"
        late = "the utterance" if row["late"] is None else f"{row['late']} ms"
        lines.append(f"| {row['name']} | {look} | {late} | {row['wer']:.1%} | {row['cost']:.3f} |")
    lines += [
        "",
        "A name is one set of weights: what a stream looks ahead is a setting (`hop`, `ahead`).",
        "`moonshine-live-base/en` learned (5, 15), (10, 10) and (5, 5), one drawn for every batch;",
        "the other looks it never saw.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
