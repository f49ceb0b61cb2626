"""Accuracy of bundled models on fewer bits, on data they were not trained on.

    nice -n 19 python -m tests.bench.compress          # writes results/compress.{json,md}
    python -m tests.bench.compress --only 'tsa*/int8'  # some of the rows

Every row writes the weights in that form, loads the file and runs what it loads, frame by frame
through the carry: the frozen encoder in front is quantised with the rest. Nothing is trained after
it (PTQ). Rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from streamzoo import zoo
from streamzoo.train.evaluate import evaluate
from streamzoo.zoo.compress import compress, header

from . import persons

OUT = Path(__file__).parent / "results" / "compress"
FORMS = ("float", "bf16", "int8", "w8a8", "w4a16-g32", "w4a16-g32 but the stem", "nvfp4",
         "w2a16-g32", "w2a16-g32 but the stem")  # fmt: skip
MODELS = {
    "tsa-lite0/synth": ("mAP", "20 drawn videos of 12 s at 5 frames/s"),
    "dsta-lite0/ucf11": ("top1", "every third of the 316 test clips of 5 frames"),
    "yolox-nano/coco": ("recall", "142 pictures of Penn-Fudan, threshold 0.3"),
}


class Every:
    """Every ``step``-th video of a source."""

    def __init__(self, source: Any, step: int):
        self._source, self._step = source, step

    def __len__(self) -> int:
        return len(range(0, len(self._source), self._step))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, video: int, *args: Any, **kwargs: Any) -> Any:
        return self._source.read(video * self._step, *args, **kwargs)

    def length(self, video: int) -> int:
        return self._source.length(video * self._step)


def source(model: str) -> Any:
    from streamzoo.configs import synth_student, ucf11_student

    if "synth" in model:
        test = synth_student.CONFIG.test
        assert test is not None
        return dataclasses.replace(test, videos=20).open("")
    config = ucf11_student.CONFIG
    assert config.test is not None
    return Every(config.test.open(config.cache), 3)


def write(name: str, form: str, path: Path) -> dict[str, Any]:
    """The weights in a form; overrides with which the file is loaded."""
    if form in ("float", "bf16"):
        _, params, card = zoo.resolve(name)
        dtype = jnp.bfloat16 if form == "bf16" else None
        zoo.save(path, params, header(card, form), dtype=dtype)
        return {"dtype": "bfloat16"} if form == "bf16" else {}
    scheme, _, rest = form.partition(" but ")
    _, params, card = compress(name, scheme, skip=("stem/*",) if rest else ())
    zoo.save(path, params, header(card, scheme))
    return {}


def row(name: str, form: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        overrides = write(name, form, path)
        told = {"model": name, "form": form, "bytes": path.stat().st_size}
        if name.startswith("yolox"):
            found = persons.measure(
                persons.detector(str(path), threshold=0.01, **overrides), "pennfudan"
            )
            told["recall"], told["precision"] = persons.at(found, 0.3)
            return told
        model, params, card = zoo.resolve(path, **overrides)
        data = source(name)
        card = dataclasses.replace(card, multi_label=data.multi_label)
        figures = evaluate(model, params, card, data)
    return told | {k: v for k, v in figures.items() if isinstance(v, float) and v == v}


def page(rows: list[dict[str, Any]]) -> str:
    about = (
        "weights rounded, nothing trained after it. Bytes are those of the file that was loaded."
    )
    lines = ["# Accuracy on fewer bits", "", f"`python -m tests.bench.compress`; {about}", ""]
    for model, (metric, data) in MODELS.items():
        mine = [r for r in rows if r["model"] == model]
        if not mine:
            continue
        first = next((r[metric] for r in mine if r["form"] == "float"), None)
        lines += [f"**{model}**, {metric} on {data}.", ""]
        lines += [f"| weights | MB | {metric} | points |", "|---|---:|---:|---:|"]
        for r in sorted(mine, key=lambda r: FORMS.index(r["form"])):
            away = "" if first is None else f"{100 * (r[metric] - first):+.1f}"
            lines.append(
                f"| {r['form']} | {r['bytes'] / 1e6:.2f} | {100 * r[metric]:.1f} | {away} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="shell pattern of MODEL/FORM")
    parser.add_argument("--out", type=Path, default=OUT, help="results, without their suffix")
    options = parser.parse_args()
    data = options.out.with_suffix(".json")
    rows = json.loads(data.read_text())["rows"] if data.is_file() else []
    for model in MODELS:
        for form in FORMS:
            done = any((r["model"], r["form"]) == (model, form) for r in rows)
            if done or not fnmatch.fnmatch(f"{model}/{form}", options.only):
                continue
            if form.endswith("stem") and model.startswith("yolox"):
                continue
            rows.append(row(model, form))
            print(rows[-1], flush=True)
            jax.clear_caches()
            data.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(page(rows))


if __name__ == "__main__":
    main()
