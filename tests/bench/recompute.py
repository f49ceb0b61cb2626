"""The recompute cache on static cameras: milliseconds per frame and likeness of the features.

Real clips, one frame at a time, against the plain encoder on the same frames. A full frame and a
partial one are timed in turns with the plain encoder; a period of P costs (full + (P - 1) partial)
/ P. Likeness is the cosine of patch features with the plain ones, mean over patches and frames; the
centred one leaves out the mean feature, which all patches share and no model needs twice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = """examples:
  python tests/bench/recompute.py                        S/16 at 224; writes results/recompute.*
  python tests/bench/recompute.py --quick                two budgets, few frames, printed only
  python tests/bench/recompute.py --weights vit.safetensors --name dinov3-s16
"""
CLIPS = (
    "vtest_pedestrians_480x360.mp4",
    "one-by-one-person-detection.mp4",
    "asl_gestures/book.mkv",
    "asl_gestures/walk.mkv",
)
NEVER = 1 << 30  # a period that is not reached: the benchmark asks for full frames itself
GOAL = (2.0, 0.98)  # times fewer milliseconds, at this cosine


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="holds clips/"
    )
    p.add_argument("--name", default="dinov3-s16", help="a registered vision transformer")
    p.add_argument("--weights", help="a file or name; random weights without it")
    p.add_argument("--size", type=int, default=224, help="pixels per side")
    p.add_argument("--frames", type=int, default=64, help="per clip")
    p.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 0.75, 1.0])
    p.add_argument("--periods", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    p.add_argument("--turns", type=int, default=15, help="timings of each kind of frame")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--quick", action="store_true")
    return p


def read(args: argparse.Namespace, card: Any):
    """Normalised frames [clips, T, H, W, 3]."""
    import numpy as np

    from streamzoo.train.data.video import decode
    from streamzoo.zoo import preprocess

    clips = []
    for name in CLIPS[: 2 if args.quick else None]:
        path = args.data / "clips" / name
        if not path.is_file():
            sys.exit(f"{path}: no such clip; say where the data lie with --data")
        found = decode(path, (args.size, args.size), seconds=8.0)[: args.frames]
        if len(found) < args.frames:
            sys.exit(f"{path}: {len(found)} frames, {args.frames} wanted; lower --frames")
        clips.append(found)
    return np.asarray(preprocess(np.stack(clips), card))


def encoder(args: argparse.Namespace):
    """(config, variables, what the weights are)."""
    import jax
    import jax.numpy as jnp

    from streamzoo import zoo
    from streamzoo.zoo import load_weights

    model: Any = zoo.create_model(args.name, image_size=(args.size,) * 2, dtype=args.dtype)
    if args.weights:
        return model.config, load_weights(args.weights, model), args.weights
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, args.size, args.size, 3)))

    def wake(path, leaf):  # fresh gains of 1e-5 would leave the tokens as they came
        return jnp.ones_like(leaf) if path[-1].key == "gain" else leaf

    variables = jax.tree_util.tree_map_with_path(wake, variables)
    return model.config, variables, "random weights (gains of the branches 1)"


def likeness(out, plain, mean) -> tuple[float, float]:
    """(cosine, centred cosine), means over [..., D]."""
    import numpy as np

    def cosine(a, b):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    return float(cosine(out, plain).mean()), float(cosine(out - mean, plain - mean).mean())


class Budget:
    """The compiled step of one budget."""

    def __init__(self, config: Any, variables: Any, budget: float, rolling: bool):
        import jax

        from streamzoo.layers.recompute import Recompute
        from streamzoo.zoo.encode.cached import CachedEncoder

        self.budget, self.rolling, self.variables = budget, rolling, variables
        self.live = CachedEncoder(config, Recompute(budget, NEVER, rolling))
        self.step = jax.jit(self._step, donate_argnums=1)

    def _step(self, variables, carry, frame):
        carry, out = self.live.apply(variables, carry, frame[:, None])
        return carry, out.features[:, 0]

    def stream(self, frames, period: int):
        """frames [clips, T, H, W, 3] -> features [clips, T, h, w, D]."""
        import numpy as np

        carry, found = self.live.init_carry(len(frames)), []
        for t in range(frames.shape[1]):
            if t % period == 0:
                carry = carry._replace(phase=carry.phase * 0)
            carry, features = self.step(self.variables, carry, frames[:, t])
            found.append(np.asarray(features, np.float32))
        return np.stack(found, axis=1)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    import jax
    import numpy as np

    from streamzoo.zoo import model_card
    from streamzoo.zoo.encode.vit import ImageViT

    card = model_card(args.name)
    frames = read(args, card)
    config, variables, about = encoder(args)
    of_image: Any = ImageViT(config)
    plain_step = jax.jit(lambda v, x: of_image.apply(v, x).features)
    plain = np.stack(
        [np.asarray(plain_step(variables, x), np.float32) for x in frames.swapaxes(0, 1)], axis=1
    )
    mean = plain.mean(axis=(0, 1, 2, 3))
    kinds = [(b, r) for r in (False, True) for b in args.budgets if b < 1 or not r]
    steps = [Budget(config, variables, *kind) for kind in kinds]
    times = timed(args, plain_step, steps, frames, variables)
    rows = []
    for kind in steps:
        for period in args.periods if kind.budget < 1 else args.periods[:1]:
            say(f"budget {kind.budget:.0%}, period {period}, rolling {kind.rolling}")
            out = kind.stream(frames, period)
            label = (kind.budget, kind.rolling)
            full, part, alone = (times[when, *label] for when in ("full", "part", "plain"))
            cosine, centred = likeness(out, plain, mean)
            ms = (full + (period - 1) * part) / period
            rows.append(
                dict(
                    budget=kind.budget,
                    rolling=kind.rolling,
                    period=period,
                    cosine=cosine,
                    centred=centred,
                    full=full,
                    part=part,
                    plain=alone,
                    ms=ms,
                    ratio=alone / ms,
                    equal=bool((out == plain).all()),
                )  # fmt: skip
            )
    steps_on = (1, min(8, plain.shape[1] - 1))
    drift = [likeness(plain[:, t:], plain[:, : plain.shape[1] - t], mean) for t in steps_on]
    return dict(
        name=args.name, weights=about, size=args.size, dtype=args.dtype, clips=CLIPS[: len(frames)],
        frames=frames.shape[1], plain=float(np.median([r["plain"] for r in rows])), rows=rows,
        drift=drift,
        tokens=config.prefix + (args.size // config.patch) ** 2,
        machine=f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} "
        f"cores, jax {jax.__version__} on {jax.default_backend()}",
        date=datetime.date.today().isoformat(),
    )  # fmt: skip


def timed(args, plain_step, steps, frames, variables) -> dict[Any, float]:
    """Median milliseconds of one frame of one stream, each kind in turns with the plain encoder."""
    import jax
    import numpy as np

    frames = jax.device_put(frames[:1].swapaxes(0, 1))
    found: dict[Any, list[float]] = {}

    def clock(key, call):
        start = time.perf_counter()
        result = jax.block_until_ready(call())
        found.setdefault(key, []).append((time.perf_counter() - start) * 1e3)
        return result

    jax.block_until_ready(plain_step(variables, frames[0]))
    for kind in steps:
        say(f"compiling budget {kind.budget:.0%}, rolling {kind.rolling}")
        carry, _ = kind.step(variables, kind.live.init_carry(1), frames[0])
        label = (kind.budget, kind.rolling)
        for turn in range(args.turns):
            frame = frames[turn % len(frames)]
            clock(("plain", *label), lambda: plain_step(variables, frame))
            carry = carry._replace(phase=carry.phase * 0)
            for when in ("full", "part", "part"):
                before = jax.block_until_ready(carry)
                carry, _ = clock(
                    (when, *label),
                    lambda: kind.step(variables, before, frame),
                )
    return {key: float(np.median(values)) for key, values in found.items()}


def report(result: dict[str, Any]) -> str:
    """The table as text."""
    best = [r for r in result["rows"] if r["cosine"] >= GOAL[1]]
    top = max(best, key=lambda r: r["ratio"], default=None)
    lines = [
        "# The recompute cache on static cameras",
        "",
        f"Made by `python tests/bench/recompute.py` on {result['date']}: {result['name']}, "
        f"{result['weights']}, {result['size']}x{result['size']} pixels, {result['tokens']} "
        f"tokens, {result['dtype']}, one stream; {result['machine']}. {len(result['clips'])} clips "
        f"of {result['frames']} frames: {', '.join(result['clips'])}.",
        "",
        f"The plain encoder takes {result['plain']:.1f} ms per frame. Its features of one frame "
        f"and the next have a cosine of {result['drift'][0][0]:.4f} (centred "
        f"{result['drift'][0][1]:.4f}), 8 frames apart of {result['drift'][1][0]:.4f} (centred "
        f"{result['drift'][1][1]:.4f}): that is what repeating old features would give.",
        "",
        f"Goal: {GOAL[0]:g}x fewer milliseconds at a cosine of {GOAL[1]} or more. "
        + (
            f"Best: **{top['ratio']:.2f}x** at {top['cosine']:.4f} (budget {top['budget']:.0%}, "
            f"period {top['period']}{', rolling' if top['rolling'] else ''})."
            if top
            else "No setting reaches that cosine."
        ),
        "",
        "With period P at most P times fewer are possible: at the source's period of 2, never 2x.",
        "",
        "| budget | period | references | ms per frame | full | partial | times fewer | cosine "
        "| centred cosine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        kind = "plain" if r["budget"] >= 1 else "rolling" if r["rolling"] else "fixed"
        note = " (bit-equal)" if r["equal"] else ""
        lines.append(
            f"| {r['budget']:.0%} | {r['period']} | {kind} | {r['ms']:.1f} | {r['full']:.1f} "
            f"| {r['part']:.1f} | {r['ratio']:.2f} | {r['cosine']:.4f}{note} | {r['centred']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Times fewer against cosine, one line per period and kind of references."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for panel, rolling in zip(panels, (False, True), strict=False):
        rows = [r for r in result["rows"] if r["rolling"] == rolling and r["budget"] < 1]
        for period in sorted({r["period"] for r in rows}):
            line = [r for r in rows if r["period"] == period]
            ratios, cosines = [r["ratio"] for r in line], [r["cosine"] for r in line]
            panel.plot(ratios, cosines, "o-", label=f"period {period}")
        panel.axhline(GOAL[1], color="grey", lw=0.8)
        panel.axvline(GOAL[0], color="grey", lw=0.8)
        panel.set_title("rolling references" if rolling else "fixed references (STC)")
        panel.set_xlabel("times fewer ms per frame")
        panel.legend(fontsize=7)
    panels[0].set_ylabel("cosine with the plain features")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.quick:
        args.budgets, args.periods = [0.25, 1.0], [2, 8]
        args.frames, args.turns = min(args.frames, 8), 3
    result = measure(args)
    text = report(result)
    print(text)
    if args.quick:
        return
    out = HERE / "results" / "recompute"
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(result, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
