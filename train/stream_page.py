"""The stream report as one HTML page: no script, nothing to fetch, the same figures the same page.

It is well-formed XML too, so that machines can read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from ..layers.streaming import Json
from . import stream_plots as plots
from .stream_plots import number

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")

LIVE = {
    "anomaly_f1": ("Anomaly F1", "an anomaly between cameras, one answer per camera"),
    "anomaly_auc": ("Anomaly AUC", "how often an anomaly scores above none; 0.5 is guessing"),
    "always_f1": ("F1 of always yes", "what saying yes to everything has, to compare with"),
    "top1": ("Top-1", "most certain class of a frame, of frames with somebody in view"),
    "mAP": ("Detection mAP", "boxes and their classes at IoU 0.5, frame by frame"),
    "event_f1": ("Event F1", "somebody comes or goes, per frame"),
    "class_f1": ("Class F1", "classes of a frame at a probability of 0.5"),
    "iou": ("Box IoU", "of the best box with the person in view"),
    "future": ("Next feature", "error over that of repeating the last; below 1 is better"),
}
ACTION = {
    "top1": ("Top-1", "action of a video, by the mean of its frames"),
    "top1_last": ("Top-1, last frame", "action of a video, by its last frame"),
    "top1_frame": ("Top-1, each frame", "action, by every frame for itself"),
    "mAP": ("mAP", "labels of given boxes, over all labelled frames"),
    "person_recall": ("Person recall", "of the detector's persons, those found at IoU 0.5"),
    "person_precision": ("Person precision", "of the boxes found, those that are persons"),
    "detected": ("Detected", "part of the actions that are told at all"),
    "delay_s": ("Delay", "seconds from an action's beginning to its answer, median"),
    "lookahead_s": ("Look-ahead", "seconds of the future that the model sees"),
}
FIRST = ("anomaly_f1", "top1", "mAP")  # told at the top, where they are


def page(report: Json) -> str:
    """The page of what ``stream_report.report`` gives."""
    title = f"{report['model']['name']}, live"
    trial, budget = report["trial"], report["protocol"]["budget_ms"]
    many = f"{trial['streams']} stream{'s' * (trial['streams'] > 1)}"
    body = [
        _header(title, report),
        _tiles(report),
        _figure(
            f"Latency of {many}", plots.histogram(trial, budget),
            f"{trial['frames_timed']} frames; the axis is logarithmic.",
        ),
        _figure(
            f"Frames per second of {many}",
            plots.rates(trial["fps_per_stream"], report["protocol"]["fps"]),
            "Answered in time or late; what is missing was dropped.",
        ),
        _figure(
            "Latency against streams", plots.scaling(report["trials"], budget),
            "Filled: held, that is p99 within the budget and no frame dropped. Hollow: not held.",
        ),
        _section("Trials", _trials(report["trials"]), *_failed(report["failed"])),
        _section("Accuracy", *_accuracy(report), wide=True),
        _section("How it was measured", _method(report), wide=True),
        _section("", _all(report), wide=True),
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _section(title: str, *parts: str, wide: bool = False) -> str:
    head = f"<h2>{escape(title)}</h2>" if title else ""
    look = ' class="wide"' if wide else ""
    return f"\n<section{look}>{head}{''.join(parts)}</section>"


def _figure(title: str, svg: str, caption: str) -> str:
    return _section(title, f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")


def _header(title: str, report: Json) -> str:
    model, device = report["model"], report["device"]
    lines = [f"<h1>{escape(title)}</h1>", f'<p class="quiet">{escape(model["summary"])}</p>']
    cores, load = device["cpu_cores"], device["load_average_before"]
    if cores and load > 0.3 * cores:
        lines.append(_notice(
            f"The machine was busy: a load of {load:g} on {cores} cores before the start. "
            "A quiet one is faster."
        ))  # fmt: skip
    if not model["weights"]:
        lines.append(_notice(
            "The weights are random: what is said of speed is true of this architecture, the "
            "answers mean nothing."
        ))  # fmt: skip
    return f"\n<header>{''.join(lines)}</header>"


def _notice(text: str) -> str:
    return f'<p class="notice">{escape(text)}</p>'


def _tiles(report: Json) -> str:
    trial, protocol, found = report["trial"], report["protocol"], report["accuracy"]
    most = f"{report['streams_within_budget']}"
    if report["limited_by_max_streams"]:
        most += " or more"
    tiles = [
        (
            "End to end, mean", f"{number(trial['mean_ms'])} ms",
            f"per frame; p99 {number(trial['p99_ms'])} ms, {trial['streams']} at once",
        ),
        (
            "Throughput per stream", f"{number(trial['fps_lowest'])} fps",
            f"the slowest; {number(protocol['fps'])} given",
        ),
        (
            "Concurrent streams", most,
            f"at {number(protocol['fps'])} fps within {number(protocol['budget_ms'])} ms",
        ),
    ]  # fmt: skip
    if found is None:
        tiles.append(("Accuracy", "–", "not measured"))
    else:
        known = ((name, found[name]) for name in FIRST if found.get(name) is not None)
        tiles += [(_words(found)[n][0], f"{value:.3f}", _words(found)[n][1]) for n, value in known]
    cells = (
        f'<div><dt>{escape(a)}</dt><dd class="value">{escape(b)}</dd>'
        f'<dd class="more quiet">{escape(c)}</dd></div>'
        for a, b, c in tiles
    )
    return f'\n<dl class="tiles wide">{"".join(cells)}</dl>'


def _words(found: Json) -> dict[str, tuple[str, str]]:
    return LIVE if "anomaly_f1" in found else ACTION


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML; the first of a row is its head."""
    top = "".join(f"<th>{one}</th>" for one in head)
    body = "".join(
        "<tr>" + "".join(c if c.startswith("<t") else f"<td>{c}</td>" for c in row) + "</tr>"
        for row in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f'<div class="scroll"><table>{thead}<tbody>{body}</tbody></table></div>'


def _trials(trials: list[Json]) -> str:
    def cells(t: Json) -> Iterator[str]:
        yield f"<th>{t['streams']}</th>"
        yield from (f"{t[k]:.1f}" for k in ("fps_lowest", "p50_ms", "p95_ms", "p99_ms"))
        yield f"{100 * t['dropped'] / t['received']:.1f} %"
        yield '<span class="good">held</span>' if t["held"] else '<span class="bad">no</span>'

    head = ("Streams", "fps, least", "p50 ms", "p95 ms", "p99 ms", "lost", "")
    return _table(head, map(cells, trials))


def _failed(failed: dict[str, str]) -> Iterator[str]:
    for streams, why in failed.items():
        yield f'<p><span class="bad">{streams} streams failed:</span> {escape(why)}</p>'


def _accuracy(report: Json) -> Iterator[str]:
    found = report["accuracy"]
    if found is None:
        why = (
            "no config was named (--config), so there was no test data"
            if report["model"]["weights"]
            else "the weights are random, so there is nothing to measure"
        )
        yield f"<p>Accuracy is not measured: {why}.</p>"
        return
    words = _words(found)
    known = [name for name in words if name in found]
    classes = [name for name in found if "/" in name]
    rest = [name for name in found if name not in known and name not in classes]
    config = report["accuracy_config"]
    yield f'<p class="quiet">{escape(report["model"]["weights"])} on the test data of '
    yield f"{escape(config)}, frame by frame as it runs live.</p>"
    rows = (
        (
            f"<th>{escape(words.get(name, (name, ''))[0])}</th>",
            "–" if found[name] is None else f"{found[name]:.3f}",
            f'<td class="words quiet">{escape(words.get(name, ("", ""))[1])}</td>',
        )
        for name in known + rest
    )
    yield _table((), rows)
    if classes:
        yield "<h2>By class</h2>"
        rows = (
            (
                f"<th>{escape(name.partition('/')[2])}</th>",
                "–" if found[name] is None else f"{found[name]:.3f}",
                f'<td class="bars"><span class="share" style="width: '
                f'{100 * min(max(found[name] or 0.0, 0.0), 1.0):.1f}%"></span></td>',
            )
            for name in classes
        )
        yield _table((), rows)


def _method(report: Json) -> str:
    model, device, protocol = (report[k] for k in ("model", "device", "protocol"))
    text = (
        "Streams of random pictures of the model's own size go through the serving engine of "
        "this process, at random phases, on the wall clock. A frame's latency runs from the "
        "moment at which its camera was to take it to its answer in the reader's hands; decoding "
        "and resizing video and the network are not part of it. The first tenth of a trial is "
        "warm-up. A number of streams is held if 99 of 100 frames are within the budget and none "
        "is dropped; 1, 2, 4, … streams are tried, then the numbers between."
    )
    alone = report["trial"]["step_alone_ms"]
    steps = ", ".join(f"{number(ms)} ms for {size}" for size, ms in alone.items())
    facts = {
        "Weights": model["weights"] or "random",
        "Frames": f"{model['height']} x {model['width']} pixels (height x width)",
        "Compiling": f"{model['compile_seconds']:.1f} s for {model['programs']} batch sizes, "
        "before the first frame",
        "Memory": f"{model['parameters']:,} parameters; {model['carry_bytes']:,} bytes per stream",
        "Look-ahead": f"{model['lookahead_frames']} frames",
        "Device": f"{device['platform']}, {device['kind']}; {device['cpu_cores']} CPU cores",
        "Load before": f"{device['load_average_before']:g}",
        "Step alone": steps + (" frames at once" if len(alone) > 1 else " at once"),
        "Trial": f"{number(protocol['seconds'])} s, seed {protocol['seed']}",
        "Software": f"Python {device['python']}, jax {device['jax']}",
    }
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f'<p>{escape(text)}</p><dl class="facts">{rows}</dl>'


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(path, JSON) of everything in a report; lists in one line, unless of groups."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from flat(one, f"{name} › {key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for k, one in enumerate(value):
            yield from flat(one, f"{name} › {k}")
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def _all(report: Json) -> str:
    rows = ((f"<th>{escape(name)}</th>", escape(text)) for name, text in flat(report))
    return f"<details><summary>All figures</summary>{_table((), rows)}</details>"
