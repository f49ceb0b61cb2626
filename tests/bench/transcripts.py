"""Words of real recordings: ours beside the engine that the weights were published for.

    python tests/bench/transcripts.py                 # all recordings of ../shared/data/speech
    python tests/bench/transcripts.py --limit 8       # the first of them

The reference is ONNX Runtime over the published files, greedy, with the same limit of tokens. A
word error rate counts inserted, left out and changed words, lower case and without punctuation,
over all words; a character error rate the same of letters and digits, without spaces (spelled
words). Seconds are those of the processor, with one thread each, so that another program changes
them little.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

# before JAX: one thread, as the reference has
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np

HERE = Path(__file__).resolve().parent
SPEECH = HERE.parents[2] / "shared/data/speech"
NAME = "moonshine-base/en"


class Engine:
    """ONNX Runtime over the published encoder and decoder."""

    def __init__(self, folder: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        make = lambda name: onnxruntime.InferenceSession(str(folder / name), options)
        self.encoder, self.decoder = make("encoder_model.ort"), make("decoder_model_merged.ort")
        self.names = [i.name for i in self.decoder.get_inputs()]
        self.shapes = {i.name: i.shape for i in self.decoder.get_inputs()}

    def __call__(self, audio: np.ndarray, limit: int) -> list[int]:
        heard = self.encoder.run(None, {self.encoder.get_inputs()[0].name: audio[None]})[0]
        heads, width = self.shapes["past_key_values.0.decoder.key"][1::2]
        past: dict[str, Any] = {
            n: np.zeros((1, heads, 0, width), np.float32) for n in self.names if "past" in n
        }
        tokens, made = [1], self.decoder.get_outputs()
        for step in range(limit):
            given = {
                "input_ids": np.array([tokens[-1:]], np.int64),
                "encoder_hidden_states": heard,
                "use_cache_branch": np.array([step > 0]),
                **past,
            }
            found: Any = self.decoder.run(None, {n: given[n] for n in self.names})
            tokens.append(int(found[0][0, -1].argmax()))
            if tokens[-1] == 2:
                break
            for output, value in zip(made[1:], found[1:], strict=True):
                name = output.name.replace("present", "past_key_values")
                if step == 0 or "decoder" in name:  # what was heard stays
                    past[name] = value
        return [t for t in tokens[1:] if t != 2]


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


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--limit", type=int, help="recordings")
    p.add_argument("--out", type=Path, default=HERE / "results/transcripts.json")
    args = p.parse_args()
    import streamzoo
    from streamzoo.streaming.sources.sound import RATE, sound_of
    from streamzoo.zoo.packages import installed
    from streamzoo.zoo.registry import model_card
    from streamzoo.zoo.speech.moonshine.transcribe import LONGEST, PACE, Transcriber

    folder = installed(model_card(NAME).source).parent
    model: Any
    model, params = streamzoo.load(NAME)
    transcribe = Transcriber(model, params, folder / "tokenizer.bin")
    engine = Engine(folder)
    with open(SPEECH / "transcripts.tsv", encoding="utf-8") as file:
        listed = list(csv.reader(file, delimiter="\t"))[: args.limit]
    transcribe.prepare(LONGEST)
    rows = []
    for name, said in (row[:2] for row in listed):
        audio = np.concatenate([*sound_of(SPEECH / name, say=lambda _: None)])
        if len(audio) > LONGEST * RATE:
            continue
        began = time.process_time()
        ours = transcribe(audio)
        middle = time.process_time()
        theirs = engine(audio, math.ceil(PACE * len(audio) / RATE))
        seconds = middle - began, time.process_time() - middle
        text = transcribe.tokens.text(theirs)
        rows.append(
            dict(
                file=name, seconds=len(audio) / RATE, said=said, ours=ours.text, engine=text,
                same=ours.tokens == theirs, ours_s=seconds[0], engine_s=seconds[1],
            )
        )  # fmt: skip
        print(f"{name}: {ours.text!r} (engine the same: {rows[-1]['same']}; said {said!r})")
    args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(report(rows))
    print("\n" + report(rows))


def machine() -> str:
    flags = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    have = [flag for flag in flags if re.search(rf"\b{flag}\b", text)]
    return f"{platform.machine()}, {' '.join(have)}"


def report(rows: list[dict]) -> str:
    """The results as Markdown."""
    lines = [
        "# Words of real recordings",
        "",
        f"`python tests/bench/transcripts.py`; {machine()}, one thread. {len(rows)} recordings, "
        f"{sum(r['seconds'] for r in rows):.0f} s. `{NAME}` against ONNX Runtime over the same "
        "published files (their weights are in 8 bits, computed with in float32 by both).",
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
    for name, some in groups.items():
        if not some:
            continue
        cells = [name, str(len(some)), f"{sum(r['same'] for r in some)}"]
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
    lines += [
        "",
        "AN4's digits are written as digits and its letters with hyphens by the model, as words by "
        "the transcripts: there the engine's column is the measure of ours, not zero.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
