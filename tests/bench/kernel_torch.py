"""PyTorch's side of kernels.py, in a process of its own: fla's kernel and a compiled student."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np


def timed(run: Any, count: int, device: str) -> list[float]:
    """Seconds of each call, to the end of its work; several warm it up."""
    import torch

    def ready() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        run()
    times, each = [], 5 if device == "cuda" else 1
    for _ in range(count):
        ready()
        start = time.perf_counter()
        for _ in range(each):
            run()
        ready()
        times.append((time.perf_counter() - start) / each)
    return times


def fla(path: str, count: int) -> Any:
    """{times, version, values: a file} of the chunked gated delta rule in bf16."""
    from importlib import metadata

    import torch

    if not torch.cuda.is_available():
        return "torch has no CUDA here"
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]

    arrays = np.load(path)
    put = lambda name, kind: torch.from_numpy(arrays[name]).cuda().to(kind)
    given = {name: put(name, torch.bfloat16) for name in ("q", "k", "v")}
    given |= {name: put(name, torch.float32) for name in ("g", "beta")}
    given["initial_state"] = put("state", torch.float32)
    with torch.inference_mode():
        run = lambda: chunk_gated_delta_rule(**given, output_final_state=True)[0]
        values = run().float().cpu().numpy()
        times = timed(run, count, "cuda")
    found = Path(path).with_name("values.npz")
    np.savez(found, o=values)
    return dict(times=times, version=metadata.version("fla-core"), values=str(found))


def tsa(path: str, task: dict[str, Any], count: int) -> Any:
    """Seconds per step of torch_step's student, frames on the device, in bf16.

    ``mode``: eager, compile, or graphs (compiled with CUDA graphs).
    """
    import torch
    import torch_step

    shape, device, batch = task["shape"], task["device"], task["batch"]
    if device == "cuda" and not torch.cuda.is_available():
        return "torch has no CUDA here"
    student = torch_step.Student(**shape).eval()
    student.load(dict(np.load(path)))
    student = student.to(device, torch.bfloat16)
    student.mean, student.std = student.mean.float(), student.std.float()
    run: Any = student
    if task["mode"] != "eager":
        options: dict[str, Any] = {"mode": "reduce-overhead"} if task["mode"] == "graphs" else {}
        run = torch.compile(student, **options)
    rng = np.random.default_rng(1)
    frame = torch.from_numpy(rng.integers(0, 256, (batch, *task["size"], 3), np.uint8)).to(device)
    past = torch.zeros(batch, shape["tokens"], shape["dim"] // 8, dtype=torch.bfloat16)
    carry = [past.to(device) for _ in range(shape["depth"])]

    def step() -> None:
        nonlocal carry
        carry, _ = run(carry, frame)
        if task["mode"] == "graphs":  # the next replay overwrites what this one returned
            carry = [part.clone() for part in carry]

    with torch.inference_mode():
        return timed(step, count, device)


def _serve(pipe: Any) -> None:
    while (order := pipe.recv()) is not None:
        what, *arguments = order
        try:
            answer = {"fla": fla, "tsa": tsa}[what](*arguments)
        except Exception as error:  # the parent decides whether it can go on without
            answer = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        pipe.send(answer)


@contextlib.contextmanager
def worker():
    """ask(what, *arguments) of one process; an answer that is a str says what went wrong."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()

    def ask(*order: Any) -> Any:
        pipe.send(order)
        return pipe.recv()

    try:
        yield ask
    finally:
        with contextlib.suppress(OSError):
            pipe.send(None)
        process.join(10)
        process.kill()
