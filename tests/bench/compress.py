"""Accuracy of bundled models on fewer bits, on data they were not trained on.

    nice -n 19 python -m tests.bench.compress          # writes results/compress.{json,md}
    python -m tests.bench.compress --only 'tsa*/int8'  # some of the rows

Every row writes the weights in that form, loads the file and runs what it loads, frame by frame
through the carry: the frozen encoder in front is quantised with the rest. Nothing is trained after
it (PTQ). Rows that are there are not run again. Data is that of the recipes (``--shared`` says
where); how each model is measured is in ``compress_measures.py``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from streamzoo import zoo
from streamzoo.zoo.compress import compress, header

from .compress_measures import MODELS

OUT = Path(__file__).parent / "results" / "compress"
FORMS = ("float", "bf16", "int8", "w8a8", "w4a16-g32", "w4a16-g32 but the stem", "nvfp4",
         "w2a16-g32", "w2a16-g32 but the stem")  # fmt: skip


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
        return told | MODELS[name].run(name, path, overrides)


def page(rows: list[dict[str, Any]]) -> str:
    about = (
        "weights rounded, nothing trained after it. Bytes are those of the file that was loaded."
    )
    lines = ["# Accuracy on fewer bits", "", f"`python -m tests.bench.compress`; {about}", ""]
    for model, measure in MODELS.items():
        mine = [r for r in rows if r["model"] == model]
        if not mine:
            continue
        metric, scale = measure.metric, measure.scale
        first = next((r[metric] for r in mine if r["form"] == "float"), None)
        lines += [f"**{model}**, {measure.about}.", ""]
        lines += [f"| weights | MB | {metric} | change |", "|---|---:|---:|---:|"]
        for r in sorted(mine, key=lambda r: FORMS.index(r["form"])):
            if "stopped" in r:
                lines.append(f"| {r['form']} | {r['stopped']} | | |")
                continue
            away = "" if first is None else f"{scale * (r[metric] - first):+.1f}"
            lines.append(
                f"| {r['form']} | {r['bytes'] / 1e6:.2f} | {scale * r[metric]:.1f} | {away} |"
            )
        left = [f for f in FORMS if f not in {r["form"] for r in mine}]
        lines += ["", f"Not run: {', '.join(left)}.", ""] if left else [""]
    left = [m for m in MODELS if m not in {r["model"] for r in rows}]
    return "\n".join([*lines, f"Not run: {', '.join(left)}.", ""] if left else lines)


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
            if form.endswith("stem") and "lite0" not in model:
                continue
            try:
                rows.append(row(model, form))
            except zoo.WeightsError as error:
                told = " ".join(str(error).split())[:160]
                rows.append({"model": model, "form": form, "stopped": told})
            print(rows[-1], flush=True)
            jax.clear_caches()
            data.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(page(rows))


if __name__ == "__main__":
    main()
