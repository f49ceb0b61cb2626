"""The sections of kernels.py that want a card; with --quick they run tiny on whatever is here."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kernel_forms as forms
import numpy as np
from jax import lax
from kernel_forms import normal
from kernel_race import Peaks, contest, difference, race, ratio
from spine import Report, say, spread

from streamzoo.layers.kernels import ring_attention as rings
from streamzoo.layers.kernels.block_attention import block_attention
from streamzoo.layers.kernels.dispatch import KernelError
from streamzoo.layers.kernels.gated_delta import gated_delta
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.ring_attention import Ring, ring_attention
from streamzoo.layers.kernels.ssd import linear_attention

BF16 = jnp.bfloat16


def wants(report: Report, what: str, platforms: tuple[str, ...] = ("gpu",)) -> bool:
    """Whether this section can run here; a note says why not."""
    here = jax.default_backend()
    if here in platforms or report.quick:
        if here not in platforms:
            report.note(f"A dry run: figures of this section want {' or '.join(platforms)}.")
        return True
    report.note(f"Skipped: {what} wants {' or '.join(platforms)}; this is {here}.")
    return False


# --- correctness on this device ----------------------------------------------------------------


def truth(report: Report, peaks: Peaks) -> None:
    """Every implementation that runs here against float64 on the host."""
    cases = {
        "ring_attention, own past": functools.partial(_ring, over="position"),
        "ring_attention, all to all": functools.partial(_ring, over="frame"),
        "block_attention": _pages,
        "gated_delta": _delta,
        "linear_scan": _scan,
        "ssd": _ssd,
    }
    kinds = ((jnp.float32, 1e-5), (BF16, 2e-2))
    names = {"cpu": (), "gpu": ("pallas",)}.get(jax.default_backend(), ("pallas", "pallas_tpu"))
    for op, build in cases.items():
        for dtype, bound in kinds[: 1 if report.quick else 2]:
            run, expected = build(report.quick, dtype)
            for name in (None, *names):
                try:
                    found = jax.jit(functools.partial(run, name))()
                except KernelError as error:
                    if "no implementation" not in str(error):
                        report.note(f"{op}, {jnp.dtype(dtype).name}, {name}: {error}")
                    continue
                gap = difference(found.astype(jnp.float32), expected)
                kind = jnp.dtype(dtype).name
                row = dict(op=op, dtype=kind, implementation=name or "chosen")
                report.row(**row, **{"max diff / max": gap})
                what = f"{op}, {kind}, {name or 'chosen'}: difference from float64"
                report.target(what, gap, at_most=bound, unit="")


def _ring(quick: bool, dtype: Any, over: str):
    batch, window, tokens, heads = (1, 4, 16, 2) if quick else (4, 64, 32, 12)
    k, v = (normal(i, batch, window, tokens, heads * 64, dtype=dtype) for i in (1, 2))
    q = normal(3, batch, 1, tokens, heads * 64, dtype=dtype)
    pos = jnp.broadcast_to(jnp.arange(window, dtype=jnp.int32), (batch, window))
    now = jnp.full((batch, 1), window - 1, jnp.int32)
    keys = rings.Keys(k, v, None, None, pos, now, None, None)
    options = dict(heads=heads, kv_heads=heads, over=over, sinks=0, window=window, rope_base=1e4)
    run = lambda name: rings.read(q, keys, implementation=name, pairs=None, **options)[:, 0]
    return run, forms.ring64(q[:, 0], k, v, heads=heads, over=over)


def _pages(quick: bool, dtype: Any):
    shape = (1, 16, 2, 16, 4, 2) if quick else (4, 32, 12, 64, 32, 8)
    arrays = forms.page_arrays(*shape, dtype=dtype)
    options: dict[str, Any] = dict(page=shape[3], heads=shape[2])
    run = lambda name: block_attention(*arrays, implementation=name, **options)
    return run, forms.pages64(*arrays, **options)


def _delta(quick: bool, dtype: Any):
    arrays = forms.delta_arrays(*((1, 16, 2, 16) if quick else (4, 257, 12, 64)), dtype=dtype)
    q, k, v, g, beta, state = arrays
    run = lambda name: gated_delta(q, k, v, g, beta, state, implementation=name)[0]
    return run, forms.delta64(q, k, v, g, beta, state)


def _scan(quick: bool, dtype: Any):
    batch, steps, dim = (1, 8, 128) if quick else (4, 257, 768)
    a = jax.nn.sigmoid(normal(1, batch, steps, dim)).astype(dtype)
    b, h = normal(2, batch, steps, dim, dtype=dtype), normal(3, batch, dim)
    return lambda name: linear_scan(a, b, h, implementation=name)[0], forms.diagonal64(a, b, h)


def _ssd(quick: bool, dtype: Any):
    arrays = forms.ssd_arrays(
        *((1, 16, 2, 64, 16) if quick else (4, 257, 12, 64, 128)), dtype=dtype
    )
    run = lambda name: linear_attention(*arrays, implementation=name)[0]
    return run, forms.ssd64(*arrays)


# --- kernels on the card -----------------------------------------------------------------------


def card_ring(report: Report, peaks: Peaks) -> None:
    """Decoding 64 token rows over a window of 1024 in bf16: a share of the copy bandwidth."""
    if not wants(report, "ring decode", ("gpu", "tpu")):
        return
    heads, window = (2, 16) if report.quick else (12, 1024)
    layouts = ((4, 1),) if report.quick else ((64, 1), (4, 16), (1, 64))
    count = 2 if report.quick else 64
    for batch, tokens in layouts:
        ring = _full_ring(batch, window, tokens, heads * 64)
        new = normal(9, count, batch, 1, tokens, heads * 64, dtype=BF16)
        moved = 2.0 * batch * tokens * heads * 64 * (2 * window + 6)
        for name in (None,) if report.quick else (None, "reference", "pallas"):
            try:
                times = _decode(ring, new, heads, window, name, peaks, report.quick)
            except KernelError as error:
                report.note(f"{batch} streams of {tokens} tokens, {name}: {error}")
                continue
            bandwidth, _ = peaks.rates(times)
            each = [s / count for s in times["ring"]]
            share = 100 * moved / bandwidth / float(np.median(each))
            report.row(
                streams=batch, tokens=tokens, implementation=name or "chosen", **spread(each),
                **{"MB": moved / 1e6, "GB/s": moved / float(np.median(each)) / 1e9},
                **{"copy GB/s": bandwidth / 1e9, "share %": share},
            )  # fmt: skip
            if name is None:
                what = f"ring decode, {batch} streams of {tokens} tokens, W = {window}"
                report.target(f"{what}: share of copy bandwidth", share, at_least=80, unit="%")
    report.note(f"{count} frames in one program (a scan); ms are of one frame, written and read.")


def _full_ring(batch: int, window: int, tokens: int, dim: int) -> Ring:
    kept = tokens if tokens < 8 else -(-tokens // 8) * 8
    k, v = (normal(i, batch, window, kept, dim, dtype=BF16) for i in (1, 2))
    pos = jnp.broadcast_to(jnp.arange(window, dtype=jnp.int32), (batch, window))
    return Ring(k, v, pos + 0, jnp.full((batch,), window, jnp.int32))


def _decode(ring, new, heads: int, window: int, name: str | None, peaks: Peaks, quick: bool):
    def frame(ring: Ring, x: jax.Array):
        options: dict[str, Any] = dict(heads=heads, sinks=0, window=window, implementation=name)
        return ring_attention(ring, x, x, x, **options)

    run = jax.jit(lambda ring, new: lax.scan(frame, ring, new), donate_argnums=0)
    carry = [jax.tree.map(jnp.copy, ring)]

    def call():
        carry[0], y = run(carry[0], new)
        return y

    return race({"ring": call, **peaks.calls()}, 2 if quick else 30)


def card_delta(report: Report, peaks: Peaks) -> None:
    """Chunked gated delta forward at B * H = 96, T = 2048, 128-d, against fla's Triton kernel."""
    if not wants(report, "gated delta against fla"):
        return
    batch, steps, heads, d = (1, 32, 2, 16) if report.quick else (8, 2048, 12, 128)
    *frames, state = forms.delta_arrays(batch, steps, heads, d, BF16)
    calls: dict[str, Any] = {}
    for name in (None,) if report.quick else (None, "reference", "pallas"):
        run = jax.jit(functools.partial(_delta_values, name))
        try:
            jax.block_until_ready(run(*frames, state))
        except KernelError as error:
            report.note(f"{name}: {error}")
            continue
        calls[f"ours, {name or 'chosen'}"] = functools.partial(run, *frames, state)
    rows, chunk = batch * heads, 64
    moved = rows * (steps * (8.0 * d + 8) + 8 * d * d)
    flops = rows * steps * (6.0 * d * d + 8 * chunk * d + 3 * chunk * chunk)
    times = contest(
        report, "gated_delta", f"B * H = {rows}, T = {steps}, {d}-d, bf16", calls, peaks, moved,
        flops, agree=3e-2,
    )  # fmt: skip
    _against_fla(report, (*frames, state), times["ours, chosen"])


def _delta_values(name: str | None, *arrays: jax.Array) -> jax.Array:
    return gated_delta(*arrays, implementation=name)[0].astype(jnp.float32)


def _against_fla(report: Report, arrays: tuple, ours: list[float]) -> None:
    import kernel_torch

    with tempfile.TemporaryDirectory() as folder, kernel_torch.worker() as ask:
        path = str(Path(folder) / "arrays.npz")
        names = ("q", "k", "v", "g", "beta", "state")
        plain: dict[str, Any] = {
            n: np.asarray(x, np.float32) for n, x in zip(names, arrays, strict=True)
        }
        np.savez(path, **plain)
        found = ask("fla", path, 2 if report.quick else 20)
        if isinstance(found, str):
            return report.note(f"fla does not run here: {found}")
        theirs = np.load(found["values"])["o"]
    gap = difference(theirs, _delta_values(None, *arrays))
    report.note(
        f"fla {found['version']}, in a process of its own right after ours: median "
        f"{1e3 * float(np.median(found['times'])):.3f} ms; values differ by {gap:.1e} at most."
    )
    times = {"ours": ours, "fla": found["times"]}
    report.target("gated_delta: fla's Triton ms / ours", ratio(times, "fla"), at_least=1)


def card_window(report: Report, peaks: Peaks) -> None:
    """Prefill with a window: the ring's clip form against cuDNN and XLA on the same tokens."""
    if not wants(report, "prefill against cuDNN"):
        return
    shapes = [(1, 1024, 16, 12, 256), (8, 2048, 1, 12, 1024)]
    if report.quick:
        shapes = [(1, 8, 16, 2, 4)]
    for batch, steps, tokens, heads, window in shapes:
        x = [normal(i, batch, steps, tokens, heads * 64, dtype=BF16) for i in (1, 2, 3)]
        empty = rings.init_ring(batch, 0, window, tokens, heads * 64, BF16)
        calls = {"ours": _prefill(empty, x, heads, window)}
        for library in ("cudnn", "xla"):
            call = _library(x, heads, window, library)
            try:
                jax.block_until_ready(call())
                calls[library] = call
            except Exception as error:  # no cuDNN here, or none that takes a window
                report.note(f"{library} does not run here: {str(error).splitlines()[0][:160]}")
        rows = batch * tokens * heads * 64
        pairs = sum(min(t + 1, window) for t in range(steps))
        shape = f"{batch} x {tokens} sequences of {steps}, {heads} heads, W = {window}, bf16"
        times = contest(
            report, "window prefill", shape, calls, peaks, 8.0 * rows * steps, 4.0 * rows * pairs,
            agree=3e-2,
        )  # fmt: skip
        if "cudnn" in times:
            value = ratio(times, "cudnn")
            report.target(f"prefill, {shape}: cuDNN ms / ours", value, at_least=1)
            if value < 1:
                report.note("Use cuDNN: `jax.nn.dot_product_attention(implementation='cudnn')`.")


def _prefill(empty: Ring, x: list, heads: int, window: int):
    options: dict[str, Any] = dict(heads=heads, sinks=0, window=window)
    run = jax.jit(lambda ring, q, k, v: ring_attention(ring, q, k, v, **options)[1])
    return lambda: run(empty, *x)


def _library(x: list, heads: int, window: int, library: Any):
    @jax.jit
    def run(*x: jax.Array) -> jax.Array:
        batch, steps, tokens, dim = x[0].shape
        split = lambda a: a.swapaxes(1, 2).reshape(batch * tokens, steps, heads, -1)
        q, k, v = (split(a) for a in x)
        place = jnp.arange(steps, dtype=jnp.float32)[None, :, None]
        q, k = (forms.turn(a.astype(jnp.float32), place).astype(BF16) for a in (q, k))
        own: dict[str, Any] = dict(
            is_causal=True, local_window_size=(window - 1, 0), implementation=library
        )
        y = jax.nn.dot_product_attention(q, k, v, **own)
        return y.reshape(batch, tokens, steps, dim).swapaxes(1, 2)

    return lambda: run(*x)


# --- whole models ------------------------------------------------------------------------------


def card_models(report: Report, peaks: Peaks) -> None:
    """Batched steps at 224 px in bf16: frames/s, a share of the matmul rate, streams at 30 fps."""
    if not wants(report, "batched steps of whole models", ("gpu", "tpu")):
        return
    from streamzoo.streaming.bench import Runner

    config: dict[str, Any] = dict(image_size=(224, 224), heads=("frame",), num_classes=80)
    if report.quick:
        config |= dict(image_size=(32, 32), dim=32, depth=1, heads_per_block=1)
    batches = (1,) if report.quick else (1, 8, 32, 64, 96, 128, 192, 256)
    best: dict[str, float] = {}
    for name in ("tsa-b16", "dsta-b16")[: 1 if report.quick else 2]:
        gflops, streams, shares = None, 0, []
        for batch in batches:
            say(f"{name}, batch {batch}")
            runner = Runner(name, batch, "bfloat16", **config)
            gflops = gflops or runner.gflops()
            rounds = 2 if report.quick else 20
            _, rate = peaks.rates(race({"model": runner.tick, **peaks.calls()}, rounds))
            times = [runner.tick() for _ in range(3 if report.quick else 300)]
            middle, late = float(np.median(times)), float(np.percentile(times, 99))
            shares.append(100 * 1e9 * gflops * batch / middle / rate)
            report.row(
                model=name, streams=batch, **spread(times), **{"ms p99": 1e3 * late},
                **{"frames/s": batch / middle, "GFLOPs/frame": gflops, "share %": shares[-1]},
                **{"compile s": runner.compile_s},
            )  # fmt: skip
            best[name] = max(best.get(name, 0.0), batch / middle)
            streams = batch if late <= 33e-3 else streams
            if late > 33e-3 and not report.quick:
                break
        report.note(f"{name}: {streams} streams at 30 fps within 33 ms p99 (of the sizes tried).")
        what = f"{name}, bf16, 224 px: best share of the measured matmul rate"
        report.target(what, max(shares), at_least=50, unit="%")
    _against_torch(report, "tsa-b16", config, best["tsa-b16"])
    report.note("dsta-b16 has no form in PyTorch here; tsa-b16 is compared.")


def _against_torch(report: Report, name: str, config: dict[str, Any], ours: float) -> None:
    import kernel_torch
    import turns

    from streamzoo.zoo import init_params, model_card, model_config
    from streamzoo.zoo.trees import flatten

    cfg, card = model_config(name, **config), model_card(name)
    rows, cols = cfg.grid()
    shape = dict(tokens=rows * cols, patch=cfg.patch, dim=cfg.dim, depth=cfg.depth, eps=cfg.eps)
    shape |= dict(heads=cfg.heads_per_block, classes=cfg.num_classes, mean=card.mean, std=card.std)
    batches = (1,) if report.quick else (32, 64, 128, 256)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    modes = ("eager",) if report.quick else ("compile", "graphs")
    with tempfile.TemporaryDirectory() as folder, kernel_torch.worker() as ask:
        path = str(Path(folder) / "weights.npz")
        flat: dict[str, Any] = turns.lively(flatten(init_params(name, **config)[1]))
        np.savez(path, **flat)
        fastest = 0.0
        for mode in modes:
            for batch in batches:
                task = dict(shape=shape, size=cfg.image_size, batch=batch, device=device, mode=mode)
                found = ask("tsa", path, task, 3 if report.quick else 100)
                if isinstance(found, str):
                    report.note(f"torch {mode}, {batch} streams, does not run here: {found}")
                    break
                speed = batch / float(np.median(found))
                fastest = max(fastest, speed)
                report.note(f"torch {mode} on {device}, {batch} streams: {speed:.1f} frames/s.")
    if fastest:
        what = f"{name}, bf16: our best frames/s / torch.compile's"
        report.target(what, ours / fastest, at_least=1)


SECTIONS = {
    "truth": truth,
    "card_ring": card_ring,
    "card_delta": card_delta,
    "card_window": card_window,
    "card_models": card_models,
}
