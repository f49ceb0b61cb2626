"""When to speak, on real streams with labelled events: F1 and delay of each trigger.

    python -m tests.bench.triggers [--data fir_action ut_interaction] [--seeds 3]

What a trigger is given is measured, or learned on the other streams of the set: the change of the
picture, drop ratios of TimeChat-Online's kind, a linear classifier of actions (whose name is the
caption that LiveStar's rule verifies), and a linear head for "something happens" (Dispider's
decision; VideoLLM-online's token of silence, with a threshold by quantile; a cascade that shows the
head those frames alone on which much changed). Thresholds are set on the other streams, too. Beside
them: speaking at equal intervals, and at random, as often as there are events.

Signals and features are read once (build/triggers), and so is every stream's result: started again,
it goes on. It writes results/triggers.md. RelayS2S' verifier, VideoAuto-R1's gate and Stream RAG's
trigger are not among them: they judge words that a model has begun to say, not frames.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from streamzoo.train.datasets.base import exists, located

from .trigger_cases import held_out, prepared, score
from .trigger_streams import EARLY, ENCODER, REACH, Stream, streams

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).parent / "results" / "triggers.md"
WHERE = {
    "fir_action": "noahzhy/FIR-Image-Action-Dataset",
    "ut_interaction": "cvrc.ece.utexas.edu/SDHA2010 (segmented set)",
}
TITLES = {
    "fir_action": "Thermal streams of a ceiling (FIR-Image-Action): an event is the beginning of a"
    f" labelled action, right are {REACH:g} s from there on (and {EARLY:g} s before). Linear heads"
    " see the pixels.",
    "ut_interaction": "Two persons in a car park (UT-Interaction, set 1): clips of a sequence one"
    " after the other, an event is a clip of an interaction, right is once anywhere in it; between"
    f" them are clips without one. Linear heads see the frozen features of {ENCODER}.",
}


READ = [
    "What it says: on the thermal streams the drop ratio alone is clearly above speaking without",
    "looking (0.29 to 0.30); a linear head on so few streams is not. On the clips of two persons a",
    "trigger on pixels fires on the cut in front of a clip (delay 0), which helps it and is no",
    "recognition; linear heads on features of single pictures are no better than equal intervals.",
    "LiveStar's rule and tokens of silence miss none of these and say four times too much: their",
    "captions are those of a linear classifier here, not of a language model.",
]


def measured(data: str, found: list[Stream], seeds: int, log: Path) -> dict[str, list]:
    """Trigger -> for each seed (right, said, events, delays), from the log where it has them."""
    done = {}
    if log.is_file():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        done = {(r["data"], r["stream"], r["seed"]): r["said"] for r in rows}
    table: dict[str, list] = {}
    for which, stream in enumerate(found):
        missing = [s for s in range(seeds) if (data, stream.name, s) not in done]
        inputs = prepared(found, which) if missing else None
        for seed in missing:
            said = held_out(found, which, seed, inputs)
            done[data, stream.name, seed] = said
            row = {"data": data, "stream": stream.name, "seed": seed, "said": said}
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(data, stream.name, seed, flush=True)
        for seed in range(seeds):
            for name, said in done[data, stream.name, seed].items():
                own = table.setdefault(name, [[0, 0, 0, []] for _ in range(seeds)])[seed]
                right, spoke, there, delays = score(said, stream)
                own[0], own[1], own[2] = own[0] + right, own[1] + spoke, own[2] + there
                own[3] += delays
    return table


def lines(data: str, found: list[Stream], table: dict[str, list]) -> list[str]:
    """A part of the page."""
    events, frames = sum(len(s.events) for s in found), sum(len(s.action) for s in found)
    made = [
        "", f"## `{data}`", "", TITLES[data], "",
        f"{len(found)} streams, {frames} frames at {found[0].rate:g} frames/s, {events} events,"
        " each stream held out once.", "",
        "| trigger | F1 | lowest | highest | precision | recall | delay, s (median) | spoke |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, seeds in table.items():
        rows = [
            (2 * right / max(1, spoke + there), right / max(1, spoke), right / there,
             float(np.median(delays)) if delays else np.nan, spoke)
            for right, spoke, there, delays in seeds
        ]  # fmt: skip
        a = np.asarray(rows)
        both, precision, recall, delay, spoke = a.mean(axis=0)
        made.append(
            f"| {name} | {both:.2f} | {a[:, 0].min():.2f} | {a[:, 0].max():.2f} |"
            f" {precision:.2f} | {recall:.2f} | {delay:.2f} | {spoke:.0f} |"
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="*", default=list(WHERE), choices=list(WHERE))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "triggers")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    page = [
        "# When to speak",
        "",
        f"`python -m tests.bench.triggers --seeds {args.seeds}`. Mean of the seeds, and the lowest"
        " and highest F1 of them; triggers on pixels alone have no seed.",
    ]
    for data in args.data:
        exists("--data", data, WHERE[data])
        found = streams(data, located(data), args.kept)
        page += lines(data, found, measured(data, found, args.seeds, args.kept / "rows.jsonl"))
    page += ["", *READ]
    args.out.write_text("\n".join(page) + "\n")
    print("\n".join(page))


if __name__ == "__main__":
    main()
