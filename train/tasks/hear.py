"""Hearing as it is said: a streaming encoder of speech learns from an offline one.

No labels are needed: the student's features should be the teacher's, and with them the teacher's
own decoder should say what it says of the teacher's (both on the teacher's words).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers import lora
from ...layers.gaps import zero_invalid
from ...layers.streaming import Array, Carry, Params
from ...zoo.ranges import Checked, Count, Share, Weight, Whole
from ..base import ModelTask
from ..losses import soft_class
from ..types import Batch, Evaluate, Loss

ENCODER = r"^encoder_\d+/"


@dataclasses.dataclass(frozen=True)
class HearConfig(Checked):
    """How a streaming encoder learns.

    Attributes:
      rank: of the change of every matrix of its blocks.
      features, words: weights of the two terms.
      looks: (hop, ahead) that it learns, one drawn for every batch: one set of weights, several
        latencies.
      share: how often each of them is drawn.
    """

    rank: Count = 6
    features: Weight = 1.0
    words: Weight = 1.0
    looks: tuple[tuple[Count, Whole], ...] = ((5, 15), (10, 10), (5, 5))
    share: tuple[Share, ...] = (0.6, 0.25, 0.15)

    def __post_init__(self):
        super().__post_init__()
        if len(self.looks) != len(self.share) or not np.isclose(sum(self.share), 1):
            raise ValueError(f"share {self.share} of looks {self.looks}: one each, 1 together")


class Hear(ModelTask):
    """Task: see the module.

    Args:
      student: a ``MoonshineLive``; ``variables`` are the teacher's, with which it begins.
      scale: variance of the teacher's features; their distance is told in it.
      evaluate: host code, the student's variables -> metrics.

    A batch has audio [B, T] float32, lengths [B] samples, features [B, F, D] of the teacher, tokens
    [B, N] of its text, the first ``config.start``, written [B] how many follow, and look [B], the
    number of what is seen ahead, one for all.
    """

    def __init__(
        self, student: Any, card: Any, variables: Params, config: HearConfig, scale: float,
        *, evaluate: Evaluate | None = None,
    ):  # fmt: skip
        super().__init__(student, card, {"params": {}}, config, evaluate=evaluate)
        self.constants, self.scale = variables, scale
        fields = student.config
        self.students = [
            student.clone(config=dataclasses.replace(fields, hop=hop, ahead=ahead))
            for hop, ahead in config.looks
        ]

    def init(self, key: Array) -> Params:
        return lora.first(self.constants["params"], ENCODER, self.config.rank, key)

    def variables(self, params: Params) -> Params:
        """The student's, the change added to its matrices."""
        return {"params": lora.merged(self.constants["params"], params)}

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        def heard(student: Any) -> Any:
            def encode(params: Params) -> Array:
                with lora.adapted(params):
                    return student.apply(
                        constants, batch["audio"], batch["lengths"], method="encode"
                    )[0]

            return encode

        x = jax.lax.switch(batch["look"][0], [heard(s) for s in self.students], params)
        want, written = batch["features"].astype(x.dtype), batch["written"]
        seen = jnp.any(want != 0, axis=-1)  # the teacher's are zero where nothing is
        apart = jnp.mean((x - want) ** 2, axis=-1) / self.scale
        near = jnp.sum(zero_invalid(apart, seen)) / jnp.sum(seen)

        def said(features: Array) -> Array:
            tokens, apply = batch["tokens"], self.students[0].apply
            memory = apply(constants, features, seen, tokens.shape[1], method="begin")
            return apply(constants, memory, tokens, method="write")[1]

        each = soft_class(said(x), jax.lax.stop_gradient(said(want)), 1.0)
        asked = jnp.arange(each.shape[1])[None] <= written[:, None]
        words = jnp.sum(zero_invalid(each, asked)) / jnp.sum(asked)
        total = self.config.features * near + self.config.words * words
        return total, (memory, {"features": near, "words": words})
