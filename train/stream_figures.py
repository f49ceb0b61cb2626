"""What the stream report says of a trial, a model and a machine, ready for JSON.

A trial is a ``streaming.engine.trial.Trial``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import jax

from ..layers.streaming import Json
from .metrics.stream import latency_summary


def row(trial: Any) -> Json:
    """A trial in a few figures."""
    latency, rates = latency_summary(1e3 * trial.latencies()), trial.rates()
    return {
        "streams": trial.plan.streams,
        "held": trial.holds(),
        "mean_ms": latency.mean,
        "p50_ms": latency.p50,
        "p95_ms": latency.p95,
        "p99_ms": latency.p99,
        "worst_ms": latency.worst,
        "fps_lowest": float(rates.min()),
        "fps_mean": float(rates.mean()),
        "received": trial.books.received,
        "dropped": sum(trial.books.dropped.values()),
    }


def closely(trial: Any) -> Json:
    """A trial with all that is drawn of it."""
    latency = latency_summary(1e3 * trial.latencies())
    return row(trial) | {
        "frames_timed": sum(latency.counts),
        "histogram": {"edges_ms": list(latency.edges), "counts": list(latency.counts)},
        "fps_per_stream": trial.rates().tolist(),
        "step_alone_ms": {str(b): 1e3 * trial.costs.mean(b) for b in trial.costs.buckets},
        "frames": trial.books.to_dict(),
    }


def about(step: Any, name: str, weights: str) -> Json:
    """Of a ``streaming.Step``: which model, what it and a stream of it hold in memory, and what
    compiling took until now, which no frame's latency holds any of."""
    model, card = step.model, step.card
    carry = jax.tree.leaves(jax.eval_shape(lambda: model.init_carry(1)))
    return {
        "name": name,
        "weights": weights,
        "summary": card.summary,
        "height": card.input_size[0],
        "width": card.input_size[1],
        "lookahead_frames": model.latency,
        "parameters": sum(a.size for a in jax.tree.leaves(step.params)),
        "compile_seconds": round(step.compile_seconds, 3),
        "programs": step.compiles,
        "carry_bytes": sum(a.size * a.dtype.itemsize for a in carry),
    }


def device(busy: float) -> Json:
    """Where it was measured; ``busy``: the load average before."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_average_before": round(busy, 2),
        "python": ".".join(map(str, sys.version_info[:3])),
        "jax": jax.__version__,
    }
