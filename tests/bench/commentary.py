"""Cameras outdoors with a running commentary, to be read by a person; all three are ten minutes.

    python -m tests.bench.commentary [--cameras 3] [--data ../shared/data] [--out FILE]

There is no clip of ten minutes of one street here: these are three cameras one after the other, a
square (OpenCV's vtest, 80 s in one piece), a car park and a lawn (UT-Interaction, whose clips of a
sequence follow each other with cuts between). Rounds of four seconds; the model that sees and the
one that speaks are those of `streamzoo chat`. What was seen is kept in build/commentary and not
looked at again; results/commentary.md is the transcript.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import streamzoo
from streamzoo.streaming.chat import Conversation, Narrator, Round
from streamzoo.streaming.chat.loading import speaker_of, weights_of
from streamzoo.streaming.chat.transcript import lines
from streamzoo.streaming.session import Session
from streamzoo.streaming.step import Step
from streamzoo.streaming.triggers import Gate
from streamzoo.train.data import video

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).parent / "results" / "commentary.md"
SEES, SPEAKS, POLICY, MEMORY = "follow-nano/coco", "smollm2-135m/instruct", "streaming-llm", 512
SIZE, RATE, EVERY = (312, 416), 4.0, 4.0  # of a frame; frames/s; seconds of a round
CAMERAS = ("a square", "a car park", "a lawn")


def clips(data: Path, camera: str) -> Iterator[np.ndarray]:
    """Frames of each clip of a camera, in their order."""
    if camera == CAMERAS[0]:
        yield video.decode(data / "clips" / "vtest_pedestrians_480x360.mp4", SIZE, RATE)
        return
    folder = data / "ut_interaction" / f"set{CAMERAS.index(camera)}"
    number = lambda p: [int(n) for n in re.findall(r"\d+", p.stem)]
    for path in sorted(video.find(folder), key=lambda p: (number(p)[1], number(p)[0])):
        yield video.decode(path, SIZE, RATE)


def seen(data: Path, camera: str, kept: Path, step: Step) -> list[Round]:
    """The rounds of a camera, read once; times count from its beginning."""
    file = kept / f"{camera.replace(' ', '-')}.jsonl"
    if not file.is_file():
        rounds = [*_look(data, camera, step)]
        rows = [json.dumps({"time": r.time, "text": r.text, "events": r.events}) for r in rounds]
        kept.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(rows) + "\n")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [Round(r["time"], r["text"], tuple(r["events"])) for r in rows]


def _look(data: Path, camera: str, step: Step) -> Iterator[Round]:
    session, narrator, count, due = Session(step, SIZE, fps=RATE), Narrator(), 0, EVERY
    for frames in clips(data, camera):
        for frame in frames:
            now = count / RATE
            narrator.push(session.push(frame, now))
            count += 1
            if now >= due:
                yield narrator.round(now)
                due += EVERY


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cameras", type=int, default=len(CAMERAS), help="how many of them")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "commentary")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    model, params = streamzoo.load(SEES)
    step = Step(model, params, streamzoo.model_card(SEES))
    speaker = speaker_of(SPEAKS, weights_of(SPEAKS), POLICY, MEMORY)
    talk = Conversation(speaker, Gate(1.0, repeat=True, pause=1))
    told: list[str] = []
    counts = dict.fromkeys(("remark", "silent"), 0)
    first: list[float] = []
    begin, size = 0.0, talk.memory_bytes
    for camera in CAMERAS[: args.cameras]:
        rounds = seen(args.data, camera, args.kept, step)
        told += ["", f"--- {camera} ---"]
        for own in rounds:
            now = Round(begin + own.time, own.text, own.events)
            said: Any = talk.hear(now)
            counts[said.kind] += 1
            first += [said.first_ms] if said.kind == "remark" else []
            told += lines(now, said)
        begin += rounds[-1].time + EVERY
        assert talk.memory_bytes == size
    page = [
        "# Cameras outdoors, with a running commentary", "",
        f"`python -m tests.bench.commentary --cameras {args.cameras}`: {args.cameras} of three"
        " cameras, one after the other (a square in one piece; a car park and a lawn, cut together"
        f" from clips of 2 to 6 s). {SEES} sees, {SPEAKS} speaks, {POLICY} keeps {MEMORY}"
        f" tokens ({size:,} bytes throughout). Indented: what was seen; `*`: what was said of it.",
        "",
        f"{begin:.0f} s, {sum(counts.values())} rounds: {counts['remark']} remarks,"
        f" {counts['silent']} silent, of which {talk.withheld} were withheld for words that nobody"
        f" had told it; first word p50 {np.median(first):.0f} ms.",
        "", "```text", *told, "```", "",
    ]  # fmt: skip
    args.out.write_text("\n".join(page))
    print("\n".join(page))


if __name__ == "__main__":
    main()
