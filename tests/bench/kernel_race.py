"""Racing array operations: in turns, checked against each other, beside the device's own peaks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from kernel_forms import normal
from spine import Report, say, spread

Call = Callable[[], Any]


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class Peaks:
    """A copy and a matrix product that race along: what a roofline is made of.

    The copy reads and writes an array far larger than any cache, in place; the product is fp32 on
    a CPU and bf16 elsewhere.
    """

    def __init__(self, quick: bool):
        size = 1 << 20 if quick else 1 << 26 if on_cpu() else 1 << 29
        side = 128 if quick else 1024 if on_cpu() else 8192
        dtype = jnp.float32 if on_cpu() else jnp.bfloat16
        self.x = jnp.tile(normal(0, 1 << 20), size >> 20)
        self.factor = normal(1, side, side, dtype=dtype) * side**-0.5
        self.moved, self.flops = 2 * self.x.nbytes, 2 * side**3
        self._negate = jax.jit(jnp.negative, donate_argnums=0)
        self._product = jax.jit(jnp.matmul)

    def copy(self) -> jax.Array:
        self.x = self._negate(self.x)
        return self.x

    def product(self) -> jax.Array:
        return self._product(self.factor, self.factor)

    def calls(self) -> dict[str, Call]:
        return {"copy": self.copy, "product": self.product}

    def rates(self, times: dict[str, list[float]]) -> tuple[float, float]:
        """(bytes, FLOPs) per second of a race that they took part in."""
        copy, product = float(np.median(times["copy"])), float(np.median(times["product"]))
        return self.moved / copy, self.flops / product


def race(
    calls: dict[Any, Call], rounds: int, each: int = 1, seconds: float = 25.0
) -> dict[Any, list[float]]:
    """Runs everything in turns.

    Args:
      each: calls between two looks at the clock (an accelerator's queue must not run dry).
      seconds: after these, fewer rounds (at least 5).

    Returns:
      seconds per call, by name. What a call compiles is not in them.
    """
    times = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
        jax.block_until_ready(call())
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn >= 5 and time.perf_counter() > end:
            break
        for name in list(calls) if turn % 2 == 0 else list(calls)[::-1]:
            out: Any = None
            start = time.perf_counter()
            for _ in range(each):
                out = calls[name]()
            jax.block_until_ready(out)
            times[name].append((time.perf_counter() - start) / each)
    return times


def difference(a: Any, b: Any) -> float:
    """max |a - b| over the largest |b|."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))


def contest(
    report: Report,
    op: str,
    shape: str,
    calls: dict[str, Call],
    peaks: Peaks,
    moved: float,
    flops: float,
    agree: float | None = None,
) -> dict[str, list[float]]:
    """Races one operation's forms (ours first) and adds a row of figures for each.

    Args:
      moved, flops: bytes and FLOPs of the operation from first principles; the larger of the two
        times at the measured peaks is the floor, and floor / measured is the share.
      agree: largest relative difference between two forms; each call gives the values.

    Raises:
      SystemExit: two forms do not agree.
    """
    say(f"{op}, {shape}")
    agree = agree or (2e-4 if on_cpu() else 3e-2)
    values, first, ours = {}, {}, next(iter(calls))
    for name, call in calls.items():
        start = time.perf_counter()
        values[name] = jax.block_until_ready(call())
        first[name] = time.perf_counter() - start
    for name, value in values.items():
        if not (gap := difference(value, values[ours])) < agree:
            raise SystemExit(f"{op}, {shape}: {name} differs from {ours} by {gap:.1e}")
    del values
    rounds, each = (2, 1) if report.quick else (15, 1 if on_cpu() else 20)
    times = race({**calls, **peaks.calls()}, rounds, each)
    bandwidth, rate = peaks.rates(times)
    floor = max(moved / bandwidth, flops / rate)
    base = float(np.median(times[ours]))
    for name in calls:
        middle = float(np.median(times[name]))
        report.row(
            op=op, shape=shape, form=name, **spread(times[name]),
            **{"times ours": middle / base, "MB": moved / 1e6, "MFLOP": flops / 1e6},
            **{"floor ms": 1e3 * floor, "share %": 100 * floor / middle},
            **{"bound": "bytes" if moved / bandwidth > flops / rate else "FLOPs"},
            **{"first call s": first[name], "GB/s": bandwidth / 1e9, "GFLOP/s": rate / 1e9},
        )  # fmt: skip
    return {name: times[name] for name in calls}


def ratio(times: dict[str, list[float]], other: str) -> float:
    """How many times as long as ours (the first) another form takes: ratio of the medians."""
    ours = next(iter(times))
    return float(np.median(times[other]) / np.median(times[ours]))
