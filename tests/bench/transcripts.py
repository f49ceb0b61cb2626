"""Words of real recordings: ours beside the engine that the weights were published for.

    python -m tests.bench.transcripts                     # recordings of ../shared/data/speech
    python -m tests.bench.transcripts --limit 8 --only 'moonshine*'

The references read the published files, greedily and with the same limit of tokens: ONNX Runtime
for Moonshine, CTranslate2 (``pip install ctranslate2``) for Whisper. A word error rate counts
inserted, left out and changed words, lower case and without punctuation, over all words; a
character error rate the same of letters and digits, without spaces (spelled words). Seconds are
those of the processor, with one thread each, so that another program changes them little.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import functools
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# before JAX: one thread, as the reference has
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np

HERE = Path(__file__).resolve().parent
SPEECH = HERE.parents[2] / "shared/data/speech"
RATE = 16_000


def words(text: str) -> list[str]:
    """Lower case, no punctuation."""
    return re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split()


def edits(a: list[str] | str, b: list[str] | str) -> int:
    """Inserted, left out and changed (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def makers() -> dict[str, dict[str, Callable[[], tuple[Any, Any, float, float]]]]:
    """name -> engine -> () -> (ours, theirs, longest utterance in s, tokens per second)."""
    import streamzoo
    from streamzoo.zoo.packages import installed
    from streamzoo.zoo.registry import model_card
    from streamzoo.zoo.speech.moonshine import transcribe as moonshine
    from streamzoo.zoo.speech.whisper import transcribe as whisper

    from .transcript_engines import Moonshine, Whisper

    folder = lambda name: installed(model_card(name).source).parent

    def of_moonshine() -> tuple[Any, Any, float, float]:
        name = "moonshine-base/en"
        model: Any
        model, params = streamzoo.load(name)
        ours = moonshine.Transcriber(model, params, folder(name) / "tokenizer.bin")
        ours.prepare(moonshine.LONGEST)
        return ours, Moonshine(folder(name)), moonshine.LONGEST, moonshine.PACE

    def of_whisper(precision: str) -> tuple[Any, Any, float, float]:
        name = "whisper-tiny/en"
        model: Any
        model, params = streamzoo.load(name)
        at = folder(name)
        prompt = whisper.read_prompt(at / "config.json", model.config.vocabulary)
        ours = whisper.Transcriber(model, params, at / "tokenizer.json", prompt)
        ours(np.zeros(RATE, np.float32))
        return ours, Whisper(at, prompt.tokens, precision), ours.longest, whisper.PACE

    return {
        "moonshine-base/en": {"onnxruntime": of_moonshine},
        "whisper-tiny/en": {
            f"ctranslate2 {precision}": functools.partial(of_whisper, precision)
            for precision in ("float32", "int8")
        },
    }


def run(make: Callable[[], tuple[Any, Any, float, float]], limit: int | None) -> list[dict]:
    """A row per recording: both texts, both times of the processor."""
    from streamzoo.streaming.sources.sound import sound_of

    transcribe, engine, longest, pace = make()
    with open(SPEECH / "transcripts.tsv", encoding="utf-8") as file:
        listed = list(csv.reader(file, delimiter="\t"))[:limit]
    rows = []
    for name, said in (row[:2] for row in listed):
        audio = np.concatenate([*sound_of(SPEECH / name, say=lambda _: None)])
        if len(audio) > longest * RATE:
            continue
        room = math.ceil(pace * len(audio) / RATE)
        if not rows:
            engine(audio, room)  # what an engine prepares at its first call
        began = time.process_time()
        ours = transcribe(audio)
        middle = time.process_time()
        theirs = engine(audio, room)
        seconds = middle - began, time.process_time() - middle
        text = text_of(transcribe, theirs)
        rows.append(
            dict(
                file=name, seconds=len(audio) / RATE, said=said, ours=ours.text, engine=text,
                same=ours.tokens == theirs, ours_s=seconds[0], engine_s=seconds[1],
            )
        )  # fmt: skip
        print(f"{name}: {ours.text!r} (engine the same: {rows[-1]['same']}; said {said!r})")
    return rows


def text_of(transcribe: Any, numbers: list[int]) -> str:
    """Of an engine's tokens, by our tokenizer."""
    if hasattr(transcribe, "tokens"):
        return transcribe.tokens.text(numbers)
    return transcribe.tokenizer.decode(numbers).strip()


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--limit", type=int, help="recordings")
    p.add_argument("--only", default="*", help="shell pattern of MODEL ENGINE")
    p.add_argument("--out", type=Path, default=HERE / "results/transcripts.json")
    args = p.parse_args()
    runs = json.loads(args.out.read_text())["runs"] if args.out.is_file() else {}
    for model, engines in makers().items():
        for engine, make in engines.items():
            if fnmatch.fnmatch(f"{model} {engine}", args.only):
                rows = run(make, args.limit)
                runs[f"{model} {engine}"] = {"machine": machine(), "rows": rows}
                print("\n" + "\n".join(table(f"{model} {engine}", runs[f"{model} {engine}"])))
    args.out.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(report(runs))


def machine() -> str:
    flags = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    have = [flag for flag in flags if re.search(rf"\b{flag}\b", text)]
    return f"{platform.machine()}, {' '.join(have)}"


def report(runs: dict[str, dict]) -> str:
    """The results as Markdown."""
    lines = [
        "# Words of real recordings",
        "",
        "`python -m tests.bench.transcripts`: our networks beside the engines that their files were"
        " published for, one thread each, the best token after the other. Both read the same"
        " file.",
        "",
    ]
    for name, one in runs.items():
        lines += table(name, one)
    lines += [
        "AN4's digits are written as digits and its letters with hyphens by the models, as words by"
        " the transcripts: there the engine's column is the measure of ours, not zero.",
        "",
    ]
    return "\n".join(lines)


def table(name: str, one: dict) -> list[str]:
    """The lines of one run."""
    rows = one["rows"]
    lines = [
        f"## {name}",
        "",
        f"{len(rows)} recordings, {sum(r['seconds'] for r in rows):.0f} s; {one['machine']}.",
        "",
        "| recordings | number | same tokens | WER ours | WER engine | CER ours | CER engine | "
        "sound per processor second, ours | engine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = {
        "read sentences": [r for r in rows if r["file"].startswith("libri")],
        "spelled letters and digits (AN4)": [r for r in rows if r["file"].startswith("an4")],
        "others": [r for r in rows if not r["file"].startswith(("libri", "an4"))],
        "all": rows,
    }
    for group, some in groups.items():
        if not some:
            continue
        cells = [group, str(len(some)), f"{sum(r['same'] for r in some)}"]
        for who in ("ours", "engine"):
            wrong = sum(edits(words(r["said"]), words(r[who])) for r in some)
            cells.append(f"{100 * wrong / sum(len(words(r['said'])) for r in some):.2f} %")
        for who in ("ours", "engine"):
            flat = lambda text: "".join(words(text)).replace("'", "")
            wrong = sum(edits(flat(r["said"]), flat(r[who])) for r in some)
            cells.append(f"{100 * wrong / sum(len(flat(r['said'])) for r in some):.2f} %")
        total = sum(r["seconds"] for r in some)
        for who in ("ours_s", "engine_s"):
            cells.append(f"{total / sum(r[who] for r in some):.1f} s")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
