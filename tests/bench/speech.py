"""What a step of the small networks of audio costs, beside onnxruntime on the published graphs.

    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" \\
        python -m tests.bench.speech    # writes results/speech.{json,md}

CPU seconds (``process_time``, which another program's load does not distort) per second of audio,
blocks of both engines in turns, medians; one thread each. The graphs lie in ``../shared``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import streamzoo

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[2] / "shared" / "data" / "weights"
OUT = HERE / "results" / "speech"
RATE, TURNS, STEPS = 16_000, 15, 60
# name -> (samples of a step, graphs of it)
MODELS = {
    "silero-vad/v6": (512, ("silero_vad_16k_op15.onnx",)),
    "gtcrn/dns3": (256, ("gtcrn_stream.onnx",)),
    "dtln/dns": (128, ("dtln_stream_1.onnx", "dtln_stream_2.onnx")),
}


def ours(name: str, samples: int) -> Callable[[], None]:
    """A step of a stream."""
    model, variables = streamzoo.load(name)
    step = jax.jit(model.apply, donate_argnums=1)
    x = 0.1 * jax.random.normal(jax.random.key(0), (1, samples))
    state = [model.init_carry(1)]

    def one() -> None:
        state[0], out = step(variables, state[0], x)
        jax.block_until_ready(out)

    one()
    return one


def theirs(graphs: tuple[str, ...]) -> Callable[[], None]:
    """A step of the published graphs, states handed on; the spectra around them are not counted."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(WEIGHTS / g), options) for g in graphs]
    inputs = []
    for session in sessions:
        shapes = {v.name: [d if isinstance(d, int) else 1 for d in v.shape]
                  for v in session.get_inputs()}  # fmt: skip
        if "sr" in shapes:
            shapes["input"] = [1, 576]
        zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        inputs.append(zeros | ({"sr": np.array(RATE, np.int64)} if "sr" in shapes else {}))

    def one() -> None:
        for session, given in zip(sessions, inputs, strict=True):
            out = session.run(None, given)
            states = [name for name in list(given)[1:] if name != "sr"]
            given.update(zip(states, out[1:], strict=True))

    one()
    return one


def cost(step: Callable[[], None], samples: int) -> float:
    """CPU seconds per second of audio."""
    begin = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - begin) / (STEPS * samples / RATE)


def main() -> None:
    rows = {}
    for name, (samples, graphs) in MODELS.items():
        steps = {"ours": ours(name, samples), "onnxruntime": theirs(graphs)}
        found = {kind: [] for kind in steps}
        for _ in range(TURNS):
            for kind, step in steps.items():
                found[kind].append(cost(step, samples))
        medians = {kind: statistics.median(values) for kind, values in found.items()}
        rows[name] = {
            "samples": samples,
            "share": medians["ours"],
            "onnxruntime": medians["onnxruntime"],
            "speed": statistics.median(
                b / a for a, b in zip(found["ours"], found["onnxruntime"], strict=True)
            ),
        }
    OUT.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    lines = ["Made by `python -m tests.bench.speech`. Shares of real time of one core.\n",
             "| model | samples | ours | onnxruntime | speed |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, row in rows.items():
        lines.append(
            f"| `{name}` | {row['samples']} | {row['share']:.2%} | {row['onnxruntime']:.2%}"
            f" | {row['speed']:.2f}x |"
        )
    OUT.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
