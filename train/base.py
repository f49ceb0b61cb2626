"""The one base of recipes and of tasks: what the trainer and its commands ask of any of them.

A recipe is a frozen config that makes a :class:`~streamzoo.train.loop.Job`; a task says what is
learned. A new task is a subclass of each (``CONTRIBUTING.md`` shows one); the trainer does not
change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from .. import zoo
from ..layers.streaming import Carry, Fields, Json, Params
from ..zoo.ranges import Checked
from ..zoo.registry import Card
from ..zoo.resolve import stated
from .data import pipeline
from .data.base import DataError, Source
from .loop import Job, LoopConfig
from .types import Batch, Evaluate, Loss

Array = jax.Array
Metrics = dict[str, float]


class BaseRecipe(Checked):
    """Base of the frozen config of a training run; a subclass is a dataclass with a ``loop``."""

    loop: LoopConfig

    def check(self) -> None:
        """Refuses what can be refused without data. Raises DataError and the zoo's errors."""

    def job(self) -> Job:
        """Opens the data and makes the task. Raises as :meth:`check`."""
        raise NotImplementedError

    def build(self) -> Job:
        """:meth:`job`, after :meth:`check`."""
        self.check()
        return self.job()

    def on_clips(self, task: Any, source: Source) -> Job:
        """A task on the clips of a source: ``loop.batch`` lanes of ``loop.frames`` frames."""
        loop = self.loop

        def batches(host: int, hosts: int) -> Any:
            return pipeline.batches(
                source, loop.batch, loop.frames, loop.seed, host=host, hosts=hosts
            )

        return Job(task, batches, source)

    def evaluate_file(self, weights: str | Path) -> Metrics:
        """Metrics of a weights file or name on the test data. Raises DataError: there are none."""
        raise DataError("this config has no test data: set test.kind and test.path")

    def next_commands(self, weights: Path) -> list[str]:
        """What one does with the weights of a finished run, a command each."""
        del weights
        return []

    def start(
        self, name: str, fields: Fields, weights: str = "",
        prepare: Callable[[Params], Params] = lambda variables: variables,
    ) -> tuple[Any, Params]:  # fmt: skip
        """(model, its first variables): of a registered name with ``fields`` of its config, drawn
        with ``loop.seed`` and prepared, or those of a file or name ``weights``."""
        model, variables = zoo.init_params(name, seed=self.loop.seed, **fields)
        variables = prepare(variables)
        return model, zoo.load_weights(weights, template=variables) if weights else variables


class ModelTask:
    """Base of a task that trains one model and saves it; see :class:`~.loop.Task`. A subclass
    writes ``loss``.

    Args:
      model: what learns; ``variables`` are its first weights, {"params": ...}.
      evaluate: host code, the model's variables -> metrics.

    Attributes:
      apart: parts of the parameters that do not learn.
      first: the parameters that learn, as they begin.
      frozen: the parts that do not.
      constants: what ``loss`` gets besides: ``frozen``, unless a subclass says more.
      header: what the weights file says of itself; see :func:`header`.
      evaluate: averaged parameters -> metrics, or None.
    """

    apart: tuple[str, ...] = ()

    def __init__(
        self, model: Any, card: Card, variables: Params, config: Any = None, *,
        evaluate: Evaluate | None = None,
    ):  # fmt: skip
        self.model, self.card, self.config = model, card, config
        self.first, self.frozen = split(variables, self.apart)
        self.constants: Params = self.frozen
        self.header: Json = {}
        self.evaluate: Evaluate | None = None
        if evaluate is not None:
            self.evaluate = lambda params: evaluate(self.variables(params))

    def variables(self, params: Params) -> Params:
        """What the model's ``apply`` takes, and what is saved."""
        return {"params": {**params, **self.frozen}}

    def init(self, key: Array) -> Params:
        """The first weights of all that learns."""
        return self.first

    def init_memory(self, lanes: int) -> Carry:
        """What one step hands to the next: nothing."""
        return ()

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        """(loss, (memory, metrics: name -> scalar)), means over the streams of ``batch``."""
        raise NotImplementedError


def split(variables: Params, apart: tuple[str, ...]) -> tuple[Params, Params]:
    """(parameters that learn, the parts of them that stay as they are) of variables."""
    params = dict(variables["params"])
    return params, {name: params.pop(name) for name in apart if name in params}


def header(name: str, fields: Fields, card: Card | None = None) -> Fields:
    """What a weights file says of itself: the model, its config, and of its card what a session
    needs (classes, how scores are read, frame rate, mean and std); ``zoo.card_of`` reads it."""
    plain = dict(fields)
    if "temporal" in plain:
        plain["temporal"] = [dataclasses.asdict(one) for one in plain["temporal"]]
    return {"model": name, "config": plain, **(stated(card) if card is not None else {})}


def shared(batch: int, host: int, hosts: int) -> range:
    """The streams of a batch that are this process's. Raises DataError: not evenly shared."""
    if batch % hosts:
        raise DataError(f"loop.batch={batch} cannot be shared by {hosts} hosts evenly")
    each = batch // hosts
    return range(host * each, (host + 1) * each)
