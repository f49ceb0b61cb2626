"""The kernels' figures in one run, on whatever device is here.

Every operation races the forms that people write first, beside its roofline (bytes and FLOPs from
first principles at the copy bandwidth and matmul rate measured in the same rounds). Where a GPU is:
correctness against float64, ring decode, fla, cuDNN and batched steps. Random data, medians, in
turns; the first call, which compiles, is kept apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants some of the card

import jax
import jax.numpy as jnp
import kernel_forms as forms
import numpy as np
from kernel_forms import normal
from kernel_race import Peaks, contest, on_cpu, race, ratio
from spine import BEGIN, HERE, Report, say, spread, surroundings

from streamzoo.layers.kernels.block_attention import block_attention
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.ring_attention import Ring, ring_attention
from streamzoo.layers.kernels.ssd import linear_attention

EXAMPLE = """examples:
  python tests/bench/kernels.py                      everything; results/kernels.{md,json,png}
  python tests/bench/kernels.py --quick              tiny shapes: does it run? (no targets)
  python tests/bench/kernels.py --only ring delta    some sections, printed and not written
  python tests/bench/kernels.py --chips              compiles every shape of the zoo for five chips
                                                     that need not be here: results/kernels_chips.md
  python tests/bench/kernels.py --chips h200         for some; the table keeps the others' rows
"""


def some(report: Report, shapes: dict[str, Any]) -> list[tuple[str, Any]]:
    """All of them, or the first where only the path is tried."""
    return list(shapes.items())[: 1 if report.quick else None]


# --- ring attention ----------------------------------------------------------------------------


class Decode:
    """A stream of frames, decoded by the ring (young or old) and by concatenating everything."""

    def __init__(self, batch: int, tokens: int, heads: int, window: int, over: str, head: int = 64):
        self.tokens, self.heads, self.window, self.over = tokens, heads, window, over
        self.batch, self.dim = batch, heads * head
        self.k, self.v = (normal(i, batch, window, tokens, self.dim) for i in (1, 2))
        self.new = tuple(normal(i, batch, 1, tokens, self.dim) for i in (3, 4, 5))
        options: dict[str, Any] = dict(heads=heads, sinks=0, window=window, over=over)
        self.step = jax.jit(
            lambda ring, q, k, v: ring_attention(ring, q, k, v, **options), donate_argnums=0
        )

    def ring(self, t: int):
        """A call that decodes frame t, then the next ones, from a full ring."""
        slots = np.argsort((t - self.window + np.arange(self.window)) % self.window)
        fill = [(0, 0), (0, 0), (0, 0 if self.tokens < 8 else -self.tokens % 8), (0, 0)]
        k, v = (jnp.pad(x[:, slots], fill) for x in (self.k, self.v))
        pos = jnp.broadcast_to(jnp.asarray(t - self.window + slots, jnp.int32), k.shape[:2])
        carry = [Ring(k, v, pos + 0, jnp.full((self.batch,), t, jnp.int32))]

        def call() -> jax.Array:
            carry[0], y = self.step(carry[0], *self.new)
            return y

        return call

    def concatenating(self, t: int):
        """A call that decodes frame t from a history of t frames."""

        def mine(x: Any) -> jax.Array:  # [B, F, N, D] -> [M, H, F * n, Dh]
            x = x.reshape(*x.shape[:3], self.heads, -1)
            if self.over == "position":
                return x.transpose(0, 2, 3, 1, 4).reshape(-1, self.heads, x.shape[1], x.shape[4])
            return x.transpose(0, 3, 1, 2, 4).reshape(self.batch, self.heads, -1, x.shape[4])

        shape = (self.batch, t - self.window, self.tokens, self.dim)
        own = 1 if self.over == "position" else self.tokens
        past_k, past_v = (
            mine(jnp.concatenate([normal(6, *shape), x], axis=1)) for x in (self.k, self.v)
        )
        past_k = forms.turn(past_k, jnp.repeat(jnp.arange(t, dtype=jnp.float32), own))
        frame = tuple(mine(x) for x in self.new)
        run = jax.jit(forms.concatenating_decode, static_argnums=(5, 6))

        def call() -> jax.Array:
            y = run(past_k, past_v, *frame, self.window, own)[2]
            if self.over == "position":
                return y.reshape(self.batch, 1, self.tokens, self.dim)
            return y.swapaxes(1, 2).reshape(self.batch, 1, self.tokens, self.dim)

        return call

    def cost(self) -> tuple[float, float]:
        """(bytes, FLOPs) of a frame: the window's keys and values are read, one slot is written."""
        frame = self.batch * self.tokens * self.dim
        pairs = 1 if self.over == "position" else self.tokens
        return 4.0 * frame * (2 * self.window + 6), 4.0 * frame * self.window * pairs


def ring(report: Report, peaks: Peaks) -> None:
    """Decoding a frame: the ring just after it filled and long after, and concatenating at 4 W."""
    layouts = {
        "8 streams of 1 token, 12 heads": (8, 1, 12, "position"),
        "16 tokens, 6 heads, own past": (1, 16, 6, "position"),
        "16 tokens, 6 heads, all to all": (1, 16, 6, "frame"),
    }
    for layout, (batch, tokens, heads, over) in some(report, layouts):
        for window in (8,) if report.quick else (64, 256, 1024):
            decode = Decode(batch, tokens, heads, window, over)
            young, old = f"ring, t = {window}", f"ring, t = {100 * window}"
            naive = f"concatenate, t = {4 * window}"
            calls = {
                old: decode.ring(100 * window),
                young: decode.ring(window),
                naive: decode.concatenating(4 * window),
            }
            times = contest(
                report, "ring_attention", f"{layout}, W = {window}", calls, peaks, *decode.cost(),
                agree=2e-3,
            )  # fmt: skip
            what = f"ring_attention, {layout}, W = {window}"
            report.target(f"{what}: {naive} ms / ours", ratio(times, naive), at_least=3)
            report.target(
                f"{what}: ms at t = 100 W / at t = W", 1 / ratio(times, young), at_most=1.1
            )
    report.note(
        "At t = 4 W the history is four windows long: 4x is the work alone; at t = W it is as long "
        "as the window (section `growth`)."
    )


def growth(report: Report, peaks: Peaks) -> None:
    """The same frame at other times."""
    window = 8 if report.quick else 256
    decode = Decode(8, 1, 12, window, "position")
    calls = {}
    for t in [n * window for n in ((2,) if report.quick else (1, 2, 4, 8, 16))]:
        calls["ring", t] = decode.ring(t)
        calls["concatenate", t] = decode.concatenating(t)
    times = race(calls, 2 if report.quick else 15, seconds=60)
    for (form, t), seconds in times.items():
        report.row(t=t, form=form, **spread(seconds))
    report.note(f"8 streams of 1 token, 12 heads, W = {window}; concatenating pads nothing.")


# --- recurrences -------------------------------------------------------------------------------


def delta(report: Report, peaks: Peaks) -> None:
    """Chunked gated delta against step loops."""
    shapes = {"8 streams, 12 heads, 64-d": (8, 12, 64), "1 stream, 32 heads, 128-d": (1, 32, 128)}
    steps, chunk = (16, 8) if report.quick else (256, 64)
    for name, (batch, heads, d) in some(report, shapes):
        if report.quick:
            batch, heads, d = 1, 2, 16
        *frames, state = forms.delta_arrays(batch, steps, heads, d)
        run = jax.jit(lambda frames, state: gated_delta(*frames, state=state, chunk=chunk)[0])
        calls = recurrences(run, tuple(frames), state, forms.delta_step)
        rows = batch * heads
        moved = 4.0 * rows * (steps * (4 * d + 2) + 2 * d * d)
        flops = rows * steps * (6.0 * d * d + 8 * chunk * d + 3 * chunk * chunk)
        shape = f"{name}, T = {steps}"
        times = contest(report, "gated_delta", shape, calls, peaks, moved, flops)
        for other in list(calls)[1:]:
            what = f"gated_delta, {shape}: {other} ms / ours"
            report.target(what, ratio(times, other), at_least=5)


def recurrences(run: Any, frames: tuple, state: Any, step: Any) -> dict[str, Any]:
    scan, loop = forms.scanned(step), forms.python_loop(step)
    return {
        "ours": lambda: run(frames, state),
        "lax.scan of steps": lambda: scan(frames, state),
        "Python loop of jitted steps": lambda: loop(frames, state),
    }


def scans(report: Report, peaks: Peaks) -> None:
    """The diagonal recurrence."""
    shapes = {
        "8 clips of ViT-B tokens": (8, 16, 196 * 768),
        "4 sequences of Griffin": (4, 256, 2560),
    }
    for name, (batch, steps, dim) in some(report, shapes):
        if report.quick:
            batch, steps, dim = 2, 8, 128
        frames = jax.nn.sigmoid(normal(1, batch, steps, dim)), normal(2, batch, steps, dim)
        run = jax.jit(lambda frames, state: linear_scan(*frames, h0=state)[0])
        state = normal(3, batch, dim)
        calls = recurrences(run, frames, state, forms.diagonal_step)
        calls["associative_scan"] = lambda: forms.associative(frames, state)
        size = batch * steps * dim
        shape = f"{name}, T = {steps}, {dim} channels"
        moved = 4.0 * (3 * size + 2 * batch * dim)
        times = contest(report, "linear_scan", shape, calls, peaks, moved, 2.0 * size)
        for other in ("Python loop of jitted steps", "associative_scan"):
            what = f"linear_scan, {shape}: {other} ms / ours"
            report.target(what, ratio(times, other), at_least=1)
    report.note("On a CPU the reference is a lax.scan: against that form it is a tie by design.")


def ssd(report: Report, peaks: Peaks) -> None:
    """Chunked state space duality against step loops."""
    shapes = {"8 streams of 12 heads": (8, 12, 64, 128), "2 streams of 24 heads": (2, 24, 64, 64)}
    steps, chunk = (16, 8) if report.quick else (256, 64)
    for name, (batch, heads, width, n) in some(report, shapes):
        if report.quick:
            batch, heads, width, n = 1, 2, 16, 16
        q, k, v, g, state = forms.ssd_arrays(batch, steps, heads, width, n)
        run = jax.jit(
            lambda frames, state: linear_attention(*frames, state=state, chunk=chunk)[0].reshape(
                *frames[2].shape[:2], -1
            )
        )
        apart = q[:, :, 0], k[:, :, 0], v.reshape(batch, steps, heads, width), g
        own = state.reshape(batch, n, heads, width).swapaxes(1, 2)
        others = recurrences(None, apart, own, forms.ssd_step)
        calls: dict[str, Any] = {"ours": lambda: run((q, k, v, g), state)}
        for other in list(others)[1:]:
            calls[other] = lambda f=others[other]: f().reshape(v.shape)
        rows = batch * heads
        moved = 4.0 * (batch * steps * (2 * n + heads * (2 * width + 1)) + 2 * rows * n * width)
        flops = (
            rows * steps * (4.0 * n * width + 2 * chunk * width) + batch * steps * 2.0 * chunk * n
        )
        shape = f"{name}, {width}-d, n = {n}, T = {steps}"
        times = contest(report, "ssd", shape, calls, peaks, moved, flops)
        for other in list(calls)[1:]:
            report.target(f"ssd, {shape}: {other} ms / ours", ratio(times, other), at_least=1)


def blocks(report: Report, peaks: Peaks) -> None:
    """Top-k pages gathered against all keys scored and masked."""
    shapes = {
        "decode, 8 streams, 12 heads, 16 of 64 pages of 64": (8, 1, 12, 64, 64, 16),
        "a frame of 196 tokens, 6 heads, 8 of 64 frames": (1, 196, 6, 208, 64, 8),
    }
    for shape, (batch, steps, heads, page, count, chosen) in some(report, shapes):
        if report.quick:
            batch, heads, page, count, chosen = 1, 2, 16, 8, 2
        q, k, v, pages = forms.page_arrays(batch, steps, heads, page, count, chosen)
        own = jax.jit(lambda q, k, v, p: block_attention(q, k, v, p, page=page, heads=heads))
        full = jax.jit(forms.masked_attention, static_argnums=(4, 5))
        calls = {
            "ours": lambda: own(q, k, v, pages),
            "full attention, masked": lambda: full(q, k, v, pages, page, heads),
        }
        moved = 4.0 * (2 * q.size + 2 * batch * chosen * page * q.shape[-1])
        flops = 4.0 * q.size * chosen * page
        times = contest(report, "block_attention", shape, calls, peaks, moved, flops)
        what = f"block_attention, {shape}: full, masked ms / ours"
        report.target(what, ratio(times, "full attention, masked"), at_least=1)


SECTIONS = {
    "ring": ring,
    "growth": growth,
    "delta": delta,
    "scan": scans,
    "ssd": ssd,
    "blocks": blocks,
}


# --- the run -----------------------------------------------------------------------------------


def plot(report: Report, path: Path) -> None:
    """Bars of how many times as long the naive forms take, and decoding over time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [
        (f"{row['op']}: {row['form']}\n{row['shape']}", row["times ours"], row["op"])
        for section in report.sections.values()
        for row in section["rows"]
        if "times ours" in row and not row["form"].startswith(("ours", "ring"))
    ]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(15, 1.5 + 0.34 * len(bars)), gridspec_kw={"width_ratios": (3, 2)}
    )
    colours = {op: f"C{i}" for i, op in enumerate(dict.fromkeys(bar[2] for bar in bars))}
    labels, values, ops = zip(*bars, strict=True) if bars else ((), (), ())
    left.barh(range(len(bars)), values, color=[colours[op] for op in ops])
    left.set_yticks(range(len(bars)), labels, fontsize=6)
    for i, value in enumerate(values):
        left.text(value, i, f" {value:.1f}x", va="center", fontsize=7)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="times as long as ours")
    left.invert_yaxis()
    grown = report.sections.get("growth", {"rows": []})["rows"]
    for form in ("ring", "concatenate"):
        rows = [row for row in grown if row["form"] == form]
        if rows:
            low, mid, high = ([row[key] for row in rows] for key in ("ms p25", "ms", "ms p75"))
            times = [row["t"] for row in rows]
            right.plot(times, mid, marker="o", label=form)
            right.fill_between(times, low, high, alpha=0.2)
    if grown:
        right.set(xscale="log", yscale="log", xlabel="frames seen", ylabel="ms per frame")
        right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    import kernel_chips
    import kernel_device

    sections = {**SECTIONS, **kernel_device.SECTIONS}
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quick", action="store_true", help="tiny shapes, a smoke test")
    names = ", ".join(sections)
    top.add_argument("--only", nargs="+", choices=sections, metavar="SECTION", help=names)
    top.add_argument("--chips", nargs="*", metavar="CHIP", help="compile only, for these or all")
    top.add_argument("--out", help="folder of the results (default: tests/bench/results, full run)")
    top.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    args = top.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    out = Path(args.out or HERE / "results")
    about = surroundings(sys.argv[1:])
    about["command"] = about["command"].replace("spine.py", "kernels.py")
    if args.chips is not None:
        kept = None if args.quick and not args.out else out
        return kernel_chips.main(args.chips, args.quick, about, kept)
    report = Report(args.quick)
    peaks = Peaks(args.quick)
    for name in args.only or sections:
        report.begin(name)
        sections[name](report, peaks)
    about["peaks"] = "measured in the rounds of every race: columns GB/s (copy) and GFLOP/s (" + (
        "fp32 product)" if on_cpu() else "bf16 product)"
    )
    about["minutes"] = f"{(time.perf_counter() - BEGIN) / 60:.1f}"
    about["load average after"] = f"{os.getloadavg()[0]:.2f}"
    text = report.markdown(about).replace("# The spine, measured", "# The kernels, measured")
    print(text)
    if args.out or not (args.quick or args.only):
        out.mkdir(parents=True, exist_ok=True)
        (out / "kernels.md").write_text(text)
        data = dict(about=about, ratios=report.ratios, sections=report.sections)
        (out / "kernels.json").write_text(json.dumps(data, indent=2) + "\n")
        plot(report, out / "kernels.png")
        say(f"wrote kernels.md, .json and .png in {out}")


if __name__ == "__main__":
    main()
