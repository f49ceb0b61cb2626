"""Two libraries in turns: a worker process each, never busy at the same time."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from typing import Any

import numpy as np

WARM = 2  # untimed steps of a turn: the caches belonged to someone else


class Ours:
    """Our step as the torch comparison runs it: one dtype, one GELU."""

    def __init__(self, task: dict[str, Any], flat: dict[str, np.ndarray], variant: str):
        import jax
        import jax.numpy as jnp

        from streamzoo.streaming import Step
        from streamzoo.zoo import create_model, model_card
        from streamzoo.zoo.trees import nest

        dtype, activation, *stored = variant.split()
        model = create_model(
            task["name"], **_retuple(task["config"]), dtype=dtype, activation=activation
        )
        kind = jnp.bfloat16 if stored else jnp.float32
        params = jax.tree.map(lambda a: jnp.asarray(a, kind), nest(flat))
        self.step_of = Step(model, params, model_card(task["name"]))
        self.size = tuple(task["config"]["image_size"])
        self.frames = [jax.device_put(f[:, None]) for f in task["frames"]]
        start = time.perf_counter()
        self.step_of.compile(1, 1, self.size)
        self.compile_s = time.perf_counter() - start
        self.carry, self.count = self.step_of.init_carry(1, self.size), 0
        self.block = jax.block_until_ready

    def step(self):
        frame = self.frames[self.count % len(self.frames)]
        self.carry, out = self.step_of(self.carry, frame)
        self.block((self.carry, out))
        self.count += 1
        return out.logits

    def trace(self, steps: int) -> np.ndarray:
        """Logits of the first frames of a new stream and its carry after them, flat."""
        self.carry, self.count = self.step_of.init_carry(1, self.size), 0
        logits = [np.asarray(self.step(), np.float32).ravel() for _ in range(steps)]
        return np.concatenate([*logits, np.asarray(self.carry[0], np.float32).ravel()])


def _retuple(config: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}


def worker(pipe: Any, library: str, task: dict[str, Any], weights: str) -> None:
    """A process that holds one library's variants and runs them when it is told to."""
    flat = dict(np.load(weights))
    rng = np.random.default_rng(1)
    shape = (1, *task["config"]["image_size"], 3)
    task["frames"] = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]
    variants: dict[str, Any] = {}
    while (order := pipe.recv()) is not None:
        what, name, count = order
        try:
            if what == "make":
                if library == "ours":
                    variants[name] = Ours(task, flat, name)
                else:
                    import torch_step

                    variants[name] = torch_step.make(task, flat, name)
                answer = variants[name].compile_s
            elif what == "trace":
                answer = variants[name].trace(count)
            else:
                answer = []
                for _ in range(WARM):
                    variants[name].step()
                for _ in range(count):
                    start = time.perf_counter()
                    variants[name].step()
                    answer.append(time.perf_counter() - start)
        except Exception as error:  # the parent decides whether it can go on without
            answer = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        pipe.send(answer)


@contextlib.contextmanager
def workers(task: dict[str, Any], weights: str):
    """{library: ask(what, variant, count)}; one process each, never busy at the same time."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for library in ("ours", "torch"):
        pipes[library], theirs = context.Pipe()
        process = context.Process(target=worker, args=(theirs, library, task, weights))
        process.start()
        processes.append(process)

    def ask(library: str, *order: Any) -> Any:
        pipes[library].send(order)
        return pipes[library].recv()

    try:
        yield ask
    finally:
        for pipe in pipes.values():
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in processes:
            process.join(10)
            process.kill()


def lively(flat: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random biases and gains too: zeros and ones would hide a wrong mapping."""
    rng = np.random.default_rng(0)
    flat = {name: np.array(a, np.float32) for name, a in flat.items()}
    for name, a in flat.items():
        if name.endswith(("bias", "scale")):
            a += 0.1 * rng.normal(size=a.shape).astype(np.float32)
    return flat
