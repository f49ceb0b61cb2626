"""The training loop: runs the steps, and can be stopped at any moment without losing its place.

A task says what is learned (:class:`Task`); a job is a task with its data (:class:`Job`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..layers.streaming import Carry, Params
from ..zoo.ranges import Checked, Count, Range, Seed, Whole, renamed
from . import sharding
from .checkpoints import Checkpoints
from .failures import library_of, one_line
from .logs import Log
from .optim import OptimConfig, warmup_steps
from .owner import Owner
from .sharding import MeshConfig
from .step import State, make_step, start
from .types import Batch, Loss

Array = jax.Array


@renamed(lanes="batch")
@dataclasses.dataclass(frozen=True)
class LoopConfig(Checked):
    """How long, how wide and how often.

    Attributes:
      steps: steps in all.
      batch: streams (lanes) trained side by side, in all processes together.
      frames: frames per lane and step.
      seed: of weights, augmentation and the order of the data.
      accumulate: micro-batches that a step's streams are split into, one after the other.
      dtype: compute type that the task gives to its model; weights and optimiser stay float32.
      log_every, checkpoint_every, eval_every: steps; 0: only at the end.
      diverge: stop when the mean loss of ``log_every`` steps after the warm-up is above this
        multiple of the lowest such mean; 0: never. For losses above 0.
      keep: checkpoints that are kept.
      out: folder of the run; on a pod, one that all hosts share.
      profile: folder for a profile of the eleventh to thirteenth step; "": none.
      tensorboard: also write for TensorBoard, under ``out``.
    """

    steps: Count = 1000
    batch: Count = 8
    frames: Count = 8
    seed: Seed = 0
    optim: OptimConfig = OptimConfig()
    accumulate: Count = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    log_every: Whole = 20
    checkpoint_every: Whole = 200
    eval_every: Whole = 0
    diverge: Annotated[float, Range(1, also=(0,), note="0: never")] = 0.0
    keep: Count = 2
    out: str = "runs/default"
    mesh: MeshConfig = MeshConfig()
    profile: str = ""
    tensorboard: bool = True

    @property
    def lanes(self) -> int:
        """``batch``, by its name in the code of the data."""
        return self.batch


class Task(Protocol):
    """What is learned. Optional besides: ``evaluate(params) -> dict[str, float]`` (host code,
    given the averaged weights) and ``rate_scale(params, layer_decay)`` (as
    ``optim.layer_scale``, which stands in for it)."""

    constants: Params  # an argument of the jitted step that is never donated: the frozen teacher

    def init(self, key: Array) -> Params:
        """The first weights, float32."""
        ...

    def init_memory(self, lanes: int) -> Carry:
        """What one step hands to the next, such as carries: every leaf [lanes, ...]; may be ()."""
        ...

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        """(loss, (memory, figures: name -> scalar)), means over the lanes of ``batch``."""
        ...


@dataclasses.dataclass(frozen=True)
class Job:
    """A task and its data.

    Attributes:
      task: see :class:`Task`.
      batches: (process, processes) -> iterator over dicts of arrays [lanes / processes, ...]. With
        ``get_state`` and ``set_state``, as grain's have, a resumed run goes on at once; without,
        the batches already seen are drawn again.
      source: where the batches come from, for its ``skipped``; any object or None.
    """

    task: Any
    batches: Callable[[int, int], Iterator[Any]]
    source: Any = None


class Result(NamedTuple):
    """What :func:`run` gives."""

    params: Params  # averaged weights, in full on one device of this process
    state: State
    history: list[dict[str, float]]  # a row per step
    scores: dict[str, float]  # of the last evaluation
    stopped: int = 0  # the signal that ended the run early, else 0


class TrainingError(RuntimeError):
    """The run cannot go on; the text says at which step, why, and what is left of it."""


class Interrupted(TrainingError):
    """A disk, a file or another process broke the run off; the same command goes on."""


def run(
    job: Job,
    config: LoopConfig,
    *,
    settings: str = "{}",
    fresh: bool = False,
    log: Callable[[str], None] | None = None,
    owner: Owner | None = None,
) -> Result:
    """Trains until ``config.steps`` steps are done, from the last checkpoint in ``config.out``.

    On SIGTERM or SIGINT the step is finished, a checkpoint written, and the result's ``stopped``
    is the signal. A second signal ends the process as usual.

    Args:
      settings: JSON text that the checkpoints keep.
      fresh: delete what is in the folder of an earlier run first.
      log: gets the lines of the log; None prints them, below a progress bar on a terminal.
      owner: of ``config.out``, entered; None takes the folder while the run lasts.

    Raises:
      TrainingError: a loss or gradient that is not finite, a loss that diverges, or no memory;
        its subclass Interrupted: data that cannot be read, a log that cannot be written, another
        process that is gone.
      CheckpointError: the last checkpoint is of another model, or none is whole; its subclass
        WriteError: a checkpoint could not be written.
      FolderInUse: another run writes into ``config.out``.
      MeshError: the mesh does not fit devices or lanes.
    """
    with contextlib.ExitStack() as held:
        if owner is None and jax.process_index() == 0:  # it writes for all
            owner = held.enter_context(Owner(config.out, log or print))
        try:
            return _Run(job, config, settings, fresh, log, owner).go()
        except OSError as error:
            raise Interrupted(f"{one_line(error)}; the same command goes on") from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise TrainingError(
                    f"the memory of the device is full ({one_line(error)}): lower loop.batch, or "
                    "raise loop.accumulate"
                ) from error
            why = f"jax failed ({one_line(error)})"
            raise Interrupted(f"{why}; the same command goes on") from error


class _Run:
    def __init__(
        self, job: Job, config: LoopConfig, settings: str, fresh: bool, log: Any,
        owner: Owner | None,
    ):  # fmt: skip
        self.task, self.config, self.settings, self.owner = job.task, config, settings, owner
        self.mesh = sharding.make_mesh(config.mesh, config.batch, config.accumulate)
        self.saved = Checkpoints(Path(config.out) / "checkpoints", config.keep, fresh)
        self.state, optimiser = start(job.task, config, self.mesh)
        self.batches = job.batches(jax.process_index(), jax.process_count())
        if self.saved.last is not None:
            self.state = self.saved.restore(self.state)
            self._seek(self.saved.about()["data"])
        self.done = int(self.state.step)
        self.step, self.names = make_step(job.task, optimiser, config, self.mesh, self.state)
        where = sharding.of_weights(job.task.constants, self.mesh)
        self.constants = sharding.place(job.task.constants, where)
        self.log = Log(
            config.out, self.done, config.steps, write=log, tensorboard=config.tensorboard
        )
        for note in self.saved.notes:
            self.log.line(note)
        self.scores: dict[str, float] = {}
        self.waiting: list[Array] = []  # figures still on the device
        self.lowest = math.inf
        self.trace = contextlib.ExitStack()  # holds the profile while it is written

    def _seek(self, positions: list[Any]) -> None:
        # the next batch is the one after the checkpoint's
        if len(positions) != jax.process_count():
            raise TrainingError(
                f"{self.saved.path()} was written by {len(positions)} processes, this run has "
                f"{jax.process_count()}: go on with as many, or start afresh with --fresh"
            )
        position = positions[jax.process_index()]
        if hasattr(self.batches, "set_state"):
            self.batches.set_state(position)  # pyright: ignore
        else:
            for _ in range(int(self.state.step)):
                next(self.batches)

    def go(self) -> Result:
        config, stopped, mark = self.config, 0, self.done
        with _signals() as caught, self.log, self.saved, self.trace:
            batch: Any = self._fetch() if self.done < config.steps else self._evaluate()
            while self.done < config.steps and not stopped:
                if self.owner is not None:
                    self.owner.check()
                self._profile(self.done - mark)
                self.state, row = self.step(self.state, self.constants, batch)
                self.waiting.append(row)
                self.done += 1
                self.log.advance(self.done)
                last = self.done == config.steps
                stopped = 0 if last else caught(self.done)
                if last or stopped or _due(self.done, config.checkpoint_every):
                    self._flush()
                    self._save(wait=last or bool(stopped))
                if not last and not stopped:
                    batch = self._fetch()  # while the device computes
                if len(self.waiting) > 1:
                    self.waiting[-2].block_until_ready()  # no more than two steps under way
                if _due(self.done, config.log_every):
                    self._flush()
                if last or _due(self.done, config.eval_every):
                    self._evaluate()
            if stopped:
                name = signal.Signals(stopped).name
                self.log.line(f"{name}: stopped after step {self.done}, {self.saved.path()}")
        average = sharding.gather(self.state.average, self.mesh)
        return Result(average, self.state, self.log.rows, self.scores, stopped)

    def _fetch(self) -> Any:
        try:
            batch = next(self.batches)
        except StopIteration:
            raise TrainingError(
                f"the data ended after step {self.done} of {self.config.steps}"
            ) from None
        except Exception as error:
            if not (isinstance(error, OSError) or library_of(error)):
                raise
            raise Interrupted(
                f"the data of step {self.done + 1} cannot be read ({one_line(error)}); "
                f"{self._left()}"
            ) from error
        return sharding.place_batch(batch, self.mesh)

    def _save(self, wait: bool) -> None:
        get = getattr(self.batches, "get_state", lambda: None)
        self.saved.save(self.done, self.state, get(), self.settings, wait)

    def _flush(self) -> None:
        # figures of the steps since the last time: from the device to the log, then checked
        if not self.waiting:
            return
        values = np.asarray(jax.device_get(self.waiting))
        self.waiting.clear()
        rows = [dict(zip(self.names, map(float, row), strict=True)) for row in values]
        bad = [int(row.pop("bad")) for row in rows][-1]
        first = self.done - len(rows) + 1
        rows = [{"step": first + i, **row} for i, row in enumerate(rows)]
        self.log.figures(rows if bad < 0 else rows[: bad - first + 1])
        if bad >= 0:
            why = f"loss or gradient is not finite at step {bad}"
            self._stop(why, "lower loop.optim.learning_rate")
        mean = math.fsum(row["loss"] for row in rows) / len(rows)
        warm = first > warmup_steps(self.config.optim, self.config.steps)
        if self.config.diverge and warm and mean > self.config.diverge * self.lowest:
            self._stop(
                f"the loss diverges: {mean:.4g} at step {self.done} after {self.lowest:.4g}",
                "lower loop.optim.learning_rate, or raise loop.diverge",
            )
        if warm:
            self.lowest = min(self.lowest, mean)

    def _stop(self, why: str, remedy: str) -> None:
        self.saved.wait()
        raise TrainingError(f"{why}; {remedy}; {self._left()}")

    def _left(self) -> str:
        good = self.saved.last is not None
        return f"the last good checkpoint is {self.saved.path()}" if good else "no checkpoint yet"

    def _evaluate(self) -> None:
        if (measure := getattr(self.task, "evaluate", None)) is not None:
            self._flush()
            self.scores = measure(sharding.gather(self.state.average, self.mesh))
            self.log.scores(self.done, self.scores)

    def _profile(self, count: int) -> None:
        # a run that ends between the two leaves the trace on its way out
        if self.config.profile and count in (10, 13):
            jax.block_until_ready(self.state)
            if count == 10:
                self.trace.enter_context(jax.profiler.trace(self.config.profile))
            else:
                self.trace.close()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _signals:
    """Notices SIGTERM and SIGINT while entered; calling it gives the signal to stop for, or 0.

    Of several processes all stop after the same step: jax's pre-emption service, which then owns
    SIGTERM, agrees on it.
    """

    def __enter__(self) -> Callable[[int], int]:
        self.got, self.before = 0, {}
        self.shared = jax.process_count() > 1
        if not self.shared and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._catch)
        return self._stop

    def _catch(self, number: int, frame: Any) -> None:
        self.got = number
        self._restore()  # the next one ends the process

    def _stop(self, step: int) -> int:
        if self.shared and multihost_utils.reached_preemption_sync_point(step):
            return int(signal.SIGTERM)
        return self.got

    def _restore(self) -> None:
        for number, before in self.before.items():
            signal.signal(number, before)
        self.before = {}

    def __exit__(self, *error: Any) -> None:
        self._restore()
