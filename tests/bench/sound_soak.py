"""Sound beside pictures in one server: no sample uncounted, memory flat, a crash survived.

    python tests/bench/sound_soak.py --sound meeting.wav     # 20 minutes, one kill -9
    python tests/bench/sound_soak.py --sound meeting.wav --minutes 2   # for function
    python tests/bench/sound_soak.py --sound meeting.wav --listen moonshine-base/en

`streamzoo serve --listen FILE --store FOLDER` in a process of its own; by default the recogniser is
a small one with random weights, whose words are nonsense and always the same. Four clients send the
recording over and over as fast as it is spoken, four send pictures. In the middle the server is
killed (SIGKILL) and started again. Every client of sound must get the words of a listener that
nothing interrupts, and every sample must be heard, waiting, or dropped with a count. Writes
results/sound_soak.{json,md,png}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from live_rig import Rig
from transcripts import machine

from streamzoo.streaming.listening import RATE, Listener
from streamzoo.streaming.serve.client import Client
from streamzoo.streaming.serve.sound_client import SoundClient
from streamzoo.streaming.serve.sound_session import record_of
from streamzoo.streaming.sources.sound import sound_of
from streamzoo.streaming.writers import writer
from tests.streaming import tiny
from tests.streaming.small_listener import small_file
from tests.streaming.stub import video

HERE = Path(__file__).parent
SOUNDS, PICTURES, FPS = 4, 4, 10
FRAMES = video(3, 64, tiny.SIZE)


async def speak(client: SoundClient, pcm: np.ndarray, seconds: float) -> int:
    """Sends the recording over and over, as it is spoken; samples that were sent."""
    start, sent = time.monotonic(), 0
    while sent < seconds * RATE:
        at = sent % len(pcm)
        part = pcm[at : at + RATE // 10]
        await client.send(part)
        sent += len(part)
        await asyncio.sleep(max(0.0, start + sent / RATE - time.monotonic()))
    await client.finish()
    return sent


async def hear(rig: Rig, pcm: np.ndarray, seconds: float, number: int) -> dict[str, Any]:
    """One stream of sound, to its end."""
    async with SoundClient(rig.address, name=f"desk{number}", patience=300) as client:
        sending = asyncio.create_task(speak(client, pcm, seconds))
        words = [word["text"] async for record in client for word in record["words"]]
        sent = await sending
    return {"sent": sent, "words": words, "books": client.end, "reconnects": client.reconnects}


async def watch(rig: Rig, seconds: float) -> int:
    """One stream of pictures; answers."""
    answers = 0

    async def send(client: Client) -> None:
        start, sent = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            await client.send(FRAMES[sent % len(FRAMES)])
            sent += 1
            await asyncio.sleep(max(0.0, start + sent / FPS - time.monotonic()))
        await client.finish()

    async with Client(rig.address, fps=FPS, budget_ms=2000, patience=300) as client:
        sending = asyncio.create_task(send(client))
        async for _ in client:
            answers += 1
        await sending
    return answers


def alone(model: str, pcm: np.ndarray, samples: int) -> list[str]:
    """The words of a listener that nothing interrupts."""
    listener = Listener(begin=writer(model, 15.0, None, shown=True))
    sound = np.resize(pcm, samples).astype(np.float32) / 32768
    said = [u for at in range(0, samples, RATE) for u in listener.push(sound[at : at + RATE])]
    rows = map(record_of, [*said, *listener.flush()])
    return [word["text"] for row in rows for word in row["words"]]


async def soak(model: str, pcm: np.ndarray, minutes: float, home: Path) -> dict[str, Any]:
    words = ("--listen", model, "--store", home / "store", "--ttl", 900)
    rig = Rig(home, *words, slots=PICTURES + SOUNDS)
    samples: list[dict[str, Any]] = []
    async with rig:
        start = time.monotonic()
        tasks: list[Any] = [asyncio.create_task(hear(rig, pcm, 60 * minutes, i))
                            for i in range(SOUNDS)]  # fmt: skip
        tasks += [asyncio.create_task(watch(rig, 60 * minutes)) for _ in range(PICTURES)]
        killed = False
        while not all(task.done() for task in tasks):
            await asyncio.sleep(5)
            now = time.monotonic() - start
            if now > 30 * minutes and not killed:
                rig.process.kill()
                await asyncio.to_thread(rig.process.wait)
                await rig.start()
                killed = True
            rows = (await rig.ask("/streams"))["sounds"]
            samples.append({"seconds": now, **rig.counts(), "killed": killed, "balanced": all(
                s["received"] == s["heard"] + s["waiting"] + s["dropped"]
                for s in (row["samples"] for row in rows)
            )})  # fmt: skip
            if len(samples) % 6 == 1:
                print(json.dumps(samples[-1]), flush=True)
        found = await asyncio.gather(*tasks)
    heard, answers = found[:SOUNDS], found[SOUNDS:]
    want = await asyncio.to_thread(alone, model, pcm, heard[0]["sent"])
    books = [row["books"]["samples"] for row in heard]
    figures = {
        "minutes": minutes, "words": len(want), "answers": answers,
        "same words": all(row["words"] == alone(model, pcm, row["sent"]) if row["sent"] !=
                          heard[0]["sent"] else row["words"] == want for row in heard),
        "reconnects": [row["reconnects"] for row in heard],
        "books": books, "sent": [row["sent"] for row in heard],
        "all heard": all(b["heard"] == row["sent"] for b, row in zip(books, heard, strict=True)),
        "balanced": all(s["balanced"] for s in samples),
    }  # fmt: skip
    return {"figures": figures | flat(samples), "samples": samples}


def flat(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Memory and threads of the server that went on, from its first third on."""
    after = [s for s in samples if s["killed"]] or samples
    late = after[len(after) // 3 :]
    minutes = [s["seconds"] / 60 for s in late]
    memory = [s["rss"] / 2**20 for s in late]
    slope = float(np.polyfit(minutes, memory, 1)[0]) if len(late) > 2 else 0.0
    return {
        "rss MB": [round(late[i]["rss"] / 2**20, 1) for i in (0, -1)],
        "rss MB per minute": round(slope, 3),
        "threads": [late[i]["threads"] for i in (0, -1)],
        "files": [late[i]["files"] for i in (0, -1)],
    }


def text(figures: dict[str, Any], picture: str) -> str:
    """The results as Markdown."""
    yes = lambda key: "yes" if figures[key] else "NO"
    seconds = sum(figures["sent"]) / RATE
    dropped = sum(b["dropped"] for b in figures["books"])
    rss, threads, files = (figures[k] for k in ("rss MB", "threads", "files"))
    return f"""# Sound beside pictures in one server

`python tests/bench/sound_soak.py --sound FILE --minutes {figures["minutes"]:g}`; {machine()}.
{SOUNDS} streams of sound ({figures["model"]}) and {PICTURES} of pictures, {FPS} frames/s each, in
one `streamzoo serve`, which is killed (SIGKILL) in the middle and started again.

| | |
|---|---|
| sound sent, s; samples dropped | {seconds:.0f}; {dropped} |
| every sample was heard | {yes("all heard")} |
| samples sent = heard + waiting + dropped whenever asked | {yes("balanced")} |
| words of each stream; the same as of a listener that nothing interrupts | {figures["words"]}; \
{yes("same words")} |
| reconnects of the streams of sound | {", ".join(map(str, figures["reconnects"]))} |
| answers of the streams of pictures | {", ".join(map(str, figures["answers"]))} |
| resident memory after the crash, MB | {rss[0]:.1f} to {rss[1]:.1f}, \
{figures["rss MB per minute"]:+.2f} a minute |
| threads; open files | {threads[0]} to {threads[1]}; {files[0]} to {files[1]} |

![memory and threads over time]({picture})
"""


def plot(path: Path, samples: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    minutes = [s["seconds"] / 60 for s in samples]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    memory, counts = figure.subplots(2, 1, sharex=True)
    memory.plot(minutes, [s["rss"] / 2**20 for s in samples])
    memory.set(ylabel="resident, MB", ylim=(0, None))
    for name, style in (("threads", "-"), ("files", "--")):
        counts.plot(minutes, [s[name] for s in samples], style, label=name)
    counts.set(ylabel="count", xlabel="minutes", ylim=(0, None))
    for axis in (memory, counts):
        axis.axvline(next((m for m, s in zip(minutes, samples, strict=True) if s["killed"]), 0),
                     color="red", lw=0.8)  # fmt: skip
    counts.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--listen", metavar="MODEL", help="default: a small one with random weights")
    p.add_argument("--sound", required=True, help="a recording of speech")
    p.add_argument("--out", type=Path, default=HERE / "results" / "sound_soak.json")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.listen or str(small_file(Path(folder)))
        sound = np.concatenate([*sound_of(args.sound)])
        pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
        run = asyncio.run(soak(model, pcm, args.minutes, Path(folder)))
    figures = run["figures"] | {"model": args.listen or "a small recogniser, random weights"}
    print(json.dumps(figures, indent=1))
    record = {"machine": machine(), "figures": figures, "samples": run["samples"]}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(text(figures, args.out.with_suffix(".png").name))
    plot(args.out.with_suffix(".png"), run["samples"])


if __name__ == "__main__":
    main()
