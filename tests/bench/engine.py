"""What the engine adds to a frame's latency: streams of a stub model on the wall clock.

    python tests/bench/engine.py                      # 8 streams x 15 fps, 20 s
    python tests/bench/engine.py --quick              # 2 s, to see that it runs
    python tests/bench/engine.py --model tsa-ti16     # a real student instead, random weights

Added latency = from ``offer`` to the answer in the reader's hands, less the step itself at the
same batch size, measured alone before. Frames come at random phases. Targets for the stub on two
quiet cores: p50 below 2 ms, p99 below 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.streaming import Step
from streamzoo.streaming.engine.trial import Plan, run_trial
from streamzoo.zoo import init_params, model_card
from streamzoo.zoo.registry import Card

SIZE = (224, 224)
TARGETS = {"p50": 2.0, "p99": 10.0}  # milliseconds


class Stub:
    """The least a model can do: counts frames and averages a few of their pixels."""

    def init_carry(self, batch, frame_shape):
        del frame_shape
        return {"n": jnp.zeros((batch,), jnp.int32)}

    def apply(self, params, carry, x, valid):
        n = carry["n"] + valid[:, 0]
        return {"n": n}, {"logits": x[:, :, ::32, ::32].mean((2, 3)) * params, "n": n[:, None]}


def make_step(model: str | None) -> Step:
    if model is None:
        card = Card("stub", summary="a stub", input_size=SIZE)
        return Step(Stub(), jnp.float32(1), card)
    return Step(*init_params(model), model_card(model))


async def run(args: argparse.Namespace) -> dict:
    plan = Plan(args.streams, args.fps, args.seconds, args.seed, depth=args.depth)
    save = (lambda costs: costs.save(args.costs)) if args.costs else None
    trial = await run_trial(make_step(args.model), plan, ready=save)
    alone = {b: 1e3 * trial.costs.mean(b) for b in trial.costs.buckets}
    # from the hand-over: how late this process's cameras are is not the engine's
    p50, p95, p99 = np.percentile(1e3 * trial.latencies("offered"), [50, 95, 99])
    one = alone[1]
    return {
        "model": args.model or "stub",
        "streams": args.streams,
        "fps": args.fps,
        "seconds": args.seconds,
        "depth": args.depth,
        "seed": args.seed,
        "device": f"{jax.devices()[0].platform} {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "load average": round(os.getloadavg()[0], 2),
        "step_ms alone": {b: round(v, 3) for b, v in alone.items()},
        "latency_ms": {"p50": float(p50), "p95": float(p95), "p99": float(p99)},
        "added_ms": {"p50": float(p50 - one), "p95": float(p95 - one), "p99": float(p99 - one)},
        "frames": trial.books.to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--streams", type=int, default=8)
    add("--fps", type=float, default=15.0)
    add("--seconds", type=float, default=20.0)
    add("--depth", type=int, default=2, help="steps launched ahead")
    add("--model", help="a student of the zoo instead of the stub")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="2 seconds; no figures to quote")
    add("--json", metavar="FILE", help="write the figures")
    add("--costs", metavar="FILE", help="write the measured step costs, for the simulator")
    args = parser.parse_args()
    if args.quick:
        args.seconds = 2.0
    figures = asyncio.run(run(args))
    print(json.dumps(figures, indent=1))
    if args.model is None:
        for name, target in TARGETS.items():
            value = figures["added_ms"][name]
            verdict = "met" if value < target else "missed"
            print(f"added {name} {value:.2f} ms, target {target:g} ms: {verdict}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
