"""Sound beside pictures in one server: no sample uncounted, memory flat, a crash survived.

    python tests/bench/sound_soak.py --sound meeting.wav     # 20 minutes, one kill -9
    python tests/bench/sound_soak.py --sound meeting.wav --minutes 2   # for function
    python tests/bench/sound_soak.py --sound meeting.wav --listen moonshine-base/en

`streamzoo serve --listen FILE --store FOLDER` in a process of its own; by default the recogniser is
a small one with random weights, whose words are nonsense and always the same. Four clients send the
recording over and over as fast as it is spoken, four send pictures. In the middle the server is
killed (SIGKILL) and started again. Every client of sound must get the words of a listener that
nothing interrupts, and every sample must be heard, waiting, or dropped with a count.
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

from streamzoo.streaming.listening import RATE, Listener
from streamzoo.streaming.serve.client import Client
from streamzoo.streaming.serve.sound_client import SoundClient
from streamzoo.streaming.serve.sound_session import record_of
from streamzoo.streaming.sources.sound import sound_of
from streamzoo.streaming.writers import writer
from tests.streaming import tiny
from tests.streaming.small_listener import small_file
from tests.streaming.stub import video

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
    after = [s for s in samples if s["killed"]]
    late = after[len(after) // 3 :] or after or samples
    return {
        "minutes": minutes, "model": model, "words": len(want), "answers": answers,
        "same words": all(row["words"] == alone(model, pcm, row["sent"]) if row["sent"] !=
                          heard[0]["sent"] else row["words"] == want for row in heard),
        "reconnects": [row["reconnects"] for row in heard],
        "books": [row["books"]["samples"] for row in heard],
        "sent": [row["sent"] for row in heard],
        "all heard": all(row["books"]["samples"]["heard"] == row["sent"] for row in heard),
        "balanced": all(s["balanced"] for s in samples),
        "rss MB": [round(late[i]["rss"] / 2**20, 1) for i in (0, -1)],
        "threads": [late[i]["threads"] for i in (0, -1)],
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--listen", metavar="MODEL", help="default: a small one with random weights")
    p.add_argument("--sound", required=True, help="a recording of speech")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.listen or str(small_file(Path(folder)))
        sound = np.concatenate([*sound_of(args.sound)])
        pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
        figures = asyncio.run(soak(model, pcm, args.minutes, Path(folder)))
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
