"""Every name with a stream x format: exported or not, difference from JAX, bytes, seconds.

    python tests/bench/export_table.py --video street.mp4 --names 'tsa*' 'swa*' --formats onnx
    python tests/bench/export_table.py --video street.mp4 --first --limit 300   # one per family

Results are kept in a JSON-lines file, one line per name and format, so that a run goes on where the
last one stopped; the table beside it is written anew after every line. Names without weights get
random ones. A row runs in a process of its own and is ended at the limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import itertools
import json
import math
import multiprocessing
import tempfile
import time
from pathlib import Path

import jax

from streamzoo import create_model, init_params, list_models, load, model_card
from streamzoo.streaming.export import FORMATS, export
from streamzoo.streaming.export.compare import pictures_of
from streamzoo.zoo.streams import as_stream
from streamzoo.zoo.weights import shapes_of

RESULTS = Path(__file__).parent / "results"
HEAD = """# Export, every name with a stream x format

Over the first 30 frames of a video with persons, JAX and the artefact each on its own state: the
largest absolute difference of any answer, and of any array of the state (0.0 where the model
keeps no state). "Change" is how much an answer of JAX changed from one frame to the next, at
most: 0.0 would say that nothing was found. Trackers are told in the first frame to follow a box.
StableHLO is the traced program itself, for any number of streams where it can be; it is written
here, and compared by the tests. Seconds are of a busy machine, conversion, loading and 30 frames of
both together; "more than" was ended there. Names that hear or read (speech, language) have no
frames and are left out, as are offline models without a form for a stream, and names of weights
that are not in the package, whose program is that of the name without them.

Which rows a detector lists among cells of equal score (most have exactly 0, as no peak is there)
is settled by their order in JAX and in ONNX Runtime. OpenVINO's TopK takes any of them, which
once made boxes of score 0 differ by 0.6; so the places of equal values are computed in the graph,
and the rows are those of JAX. Memory of `tracker-lite0` is bfloat16: where two float32 values
round to different ones, the state differs by a last digit of that type. With memory in float32
the same export differs by 2.5e-5, its state by 3.6e-5.

"""


# Their batch is a number: the memory that they read comes in blocks whose size depends on it.
FIXED = ("sam2", "edgetam", "efficienttam")


def _send(pipe, *args: str) -> None:
    pipe.send(row(*args))


def limited(name: str, to: str, video: str, limit: float) -> dict:
    """:func:`row` in a process of its own, which ends after ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, name, to, video), daemon=True)
    process.start()
    theirs.close()
    line: dict = {"name": name, "to": to}
    try:
        if mine.poll(limit):
            return mine.recv()
        line |= {"stopped": f"more than {limit:g} s", "limit": limit}
    except EOFError:
        line["stopped"] = "the process ended (memory?)"
    finally:
        process.kill()
        process.join()
    return line | {"seconds": limit}


def row(name: str, to: str, video: str) -> dict:
    """One name in one format. What stops it is a result too."""
    card = model_card(name)
    line: dict = {"name": name, "to": to}
    start = time.perf_counter()
    try:
        model, params = load(name) if card.weights else init_params(name)
        height, width = getattr(getattr(model, "config", None), "image_size", card.input_size)
        size = int(height), int(width)
        one = to != "stablehlo" or name.startswith(FIXED)
        with tempfile.TemporaryDirectory() as folder:
            # StableHLO is the traced program itself: it is written, not compared
            wrote = export(
                model, params, card, folder, to=to, size=size,
                batch=1 if one else None, pictures=pictures_of(video, size),
            )  # fmt: skip
        line["bytes"] = wrote.bytes
        if wrote.difference is not None:
            line |= dataclasses.asdict(wrote.difference)
    except Exception as error:  # every kind of failure is what the table is for
        words = " ".join(str(error).split())
        line["stopped"] = f"{type(error).__name__}: {words[:160]}"
    line["seconds"] = round(time.perf_counter() - start, 1)
    return line


def streams() -> list[str]:
    """Names whose frames can be shown to a stream."""
    found = []
    for name in list_models():
        card = model_card(name)
        if card.tag and not card.weights:
            continue
        try:
            stream = as_stream(create_model(name), card)
        except ValueError:
            continue
        if stream.inputs[0] == "frames":
            found.append(name)
    return found


def families(names: list[str]) -> list[str]:
    """The smallest of each architecture; one with weights in the package before one without."""

    def rank(name: str) -> tuple[bool, int]:
        bundled = bool(model_card(name).weights)
        size = sum(math.prod(a.shape) for a in jax.tree.leaves(shapes_of(name)))
        return not bundled, size

    # "dinov3-convnext-t" is of dinov3-convnext, "tsa-lite0/synth" of tsa
    family = lambda name: name.partition("/")[0].rpartition("-")[0] or name
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(family(name), []).append(name)
    least = {k: min(v, key=rank) for k, v in groups.items()}
    return sorted(least.values(), key=rank)


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
    tried = {(x["name"], x["to"]) for x in lines}
    rows.append("")
    for to in FORMATS:
        left = [n for n in names if (n, to) not in tried]
        rows += [f"Not run to {to}: {', '.join(left) or 'none'}.", ""]
    return "\n".join(rows)


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--video", required=True, help="its first 30 frames are shown")
    p.add_argument("--names", nargs="+", default=["*"], help="patterns")
    p.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    p.add_argument("--first", action="store_true", help="the smallest name of each architecture")
    p.add_argument(
        "--limit", type=float, default=600.0, help="seconds of a row (default: %(default)g)"
    )
    p.add_argument("--out", default=str(RESULTS / "export_table.md"))
    args = p.parse_args()
    out = Path(args.out)
    kept = out.with_suffix(".jsonl")
    lines = [json.loads(t) for t in kept.read_text().splitlines()] if kept.exists() else []
    every = streams()
    wanted = [n for p in args.names for n in every if fnmatch.fnmatchcase(n, p)]
    wanted = families(wanted) if args.first else wanted
    for name, to in itertools.product(dict.fromkeys(wanted), args.formats):
        same = [x for x in lines if (x["name"], x["to"]) == (name, to)]
        if any(x.get("limit", math.inf) >= args.limit for x in same):
            continue  # a row that was ended is tried again with more time
        lines = [x for x in lines if x not in same]
        lines.append(limited(name, to, args.video, args.limit))
        print(json.dumps(lines[-1]), flush=True)
        kept.write_text("".join(json.dumps(x) + "\n" for x in lines))
        out.write_text(HEAD + table(lines, every))


if __name__ == "__main__":
    main()
