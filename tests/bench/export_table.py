"""Every registered streaming name x format: exported or not, difference from JAX, bytes, seconds.

    python tests/bench/export_table.py --video street.mp4 --names 'tsa*' 'swa*' --formats onnx

Results are kept in a JSON-lines file, one line per name and format, so that a run goes on where the
last one stopped; the table beside it is written anew after every line. Names without weights get
random ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import itertools
import json
import tempfile
import time
from pathlib import Path

from streamzoo import init_params, list_models, load, model_card
from streamzoo.streaming.export import FORMATS, export
from streamzoo.streaming.export.compare import pictures_of

RESULTS = Path(__file__).parent / "results"
HEAD = """# Export, every streaming name x format

Over the first 30 frames of a video with persons, JAX and the artefact each on its own state: the
largest absolute difference of any answer, and of any array of the state (0.0 where the model
keeps no state). "Change" is how much an answer of JAX changed from one frame to the next, at
most: 0.0 would say that nothing was found. Trackers are told in the first frame to follow a box.
StableHLO is the traced program itself, for any number of streams; it is written here, and
compared by the tests. Seconds are of a busy machine.

Which rows a detector lists among cells of equal score (most have exactly 0, as no peak is there)
is settled by their order in JAX and in ONNX Runtime. OpenVINO's TopK takes any of them, which
once made boxes of score 0 differ by 0.6; so the places of equal values are computed in the graph,
and the rows are those of JAX. Memory of `tracker-lite0` is bfloat16: where two float32 values
round to different ones, the state differs by a last digit of that type. With memory in float32
the same export differs by 2.5e-5, its state by 3.6e-5.

"""


def row(name: str, to: str, video: str) -> dict:
    """One name in one format. What stops it is a result too."""
    card = model_card(name)
    line: dict = {"name": name, "to": to}
    start = time.perf_counter()
    try:
        model, params = load(name) if card.pretrained else init_params(name)
        height, width = getattr(getattr(model, "config", None), "image_size", card.input_size)
        size = int(height), int(width)
        with tempfile.TemporaryDirectory() as folder:
            # StableHLO is the traced program itself: it is written, not compared
            wrote = export(
                model, params, card, folder, to=to, size=size,
                batch=None if to == "stablehlo" else 1, pictures=pictures_of(video, size),
            )  # fmt: skip
        line["bytes"] = wrote.bytes
        if wrote.difference is not None:
            line |= dataclasses.asdict(wrote.difference)
    except Exception as error:  # every kind of failure is what the table is for
        words = " ".join(str(error).split())
        line["stopped"] = f"{type(error).__name__}: {words[:160]}"
    line["seconds"] = round(time.perf_counter() - start, 1)
    return line


def table(lines: list[dict], names: list[str]) -> str:
    """Markdown, and which names were not run."""
    rows = [
        "| name | format | answers differ by | state | answers change by | MB | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    told = lambda x: "-" if x is None else f"{x:.1e}"
    for x in sorted(lines, key=lambda x: (names.index(x["name"]), x["to"])):
        if "stopped" in x:
            rows.append(f"| {x['name']} | {x['to']} | {x['stopped']} | | | | {x['seconds']} |")
        else:
            figures = [told(x.get(k)) for k in ("answers", "state", "change")]
            cells = [x["name"], x["to"], *figures, f"{x['bytes'] / 1e6:.1f}", x["seconds"]]
            rows.append(f"| {' | '.join(map(str, cells))} |")
    left = [n for n in names if n not in {x["name"] for x in lines}]
    return "\n".join([*rows, "", f"Not run: {', '.join(left) or 'none'}.", ""])


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--video", required=True, help="its first 30 frames are shown")
    p.add_argument("--names", nargs="+", default=["*"], help="patterns")
    p.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    p.add_argument("--out", default=str(RESULTS / "export_table.md"))
    args = p.parse_args()
    out = Path(args.out)
    kept = out.with_suffix(".jsonl")
    lines = [json.loads(t) for t in kept.read_text().splitlines()] if kept.exists() else []
    every = list_models(streaming=True)
    wanted = [n for p in args.names for n in every if fnmatch.fnmatchcase(n, p)]
    for name, to in itertools.product(dict.fromkeys(wanted), args.formats):
        if any((x["name"], x["to"]) == (name, to) for x in lines):
            continue
        lines.append(row(name, to, args.video))
        print(json.dumps(lines[-1]), flush=True)
        with kept.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        out.write_text(HEAD + table(lines, every))


if __name__ == "__main__":
    main()
