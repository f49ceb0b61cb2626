"""Training for fewer bits and fewer weights, around any task.

    streamzoo train --config synth_student --set compress.bits=2
    streamzoo train --config synth_student --set model.weights=FILE compress.prune=0.5

``bits``: every kernel is rounded where it is used and learns through it, with a scale per output
channel that learns too (``layers/codec/paretoq``). ``prune``: the smallest of the first weights of
every kernel are zero and stay so, the others are trained further (Han et al., arXiv 1506.02626).
The weights file holds codes, and the evaluation is of what they stand for.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layers.codec import paretoq
from ..layers.codec.box import SCHEMES, box, inner_shape
from ..layers.streaming import Array, Carry, Params
from ..zoo import trees
from ..zoo.int8 import is_kernel
from ..zoo.pruning import smallest
from ..zoo.ranges import Checked, Range
from .base import ModelTask
from .optim import BelowOne, layer_scale
from .types import Batch, Loss

_BITS = ", ".join(f"{b:g}" for b in paretoq.BITS)
# What only training has: a map to the teacher's width.
NOT_OF_THE_MODEL = "project/*"


@dataclasses.dataclass(frozen=True)
class CompressConfig(Checked):
    """How a model gets smaller while it learns.

    Attributes:
      bits: of a weight; 0 leaves floats.
      prune: share of every kernel's weights that are zero.
      skip: shell patterns of kernels that stay as they are. Frozen parts always do.
    """

    bits: Annotated[float, Range(1, 4, also=(0,), note="0: floats")] = 0
    prune: BelowOne = 0.0
    skip: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.bits and self.bits not in paretoq.BITS:
            raise ValueError(f"bits={self.bits:g}: 0 for floats, or {_BITS}")
        if self.bits in (1, 2) and self.prune:
            raise ValueError(
                f"bits={self.bits:g} with prune={self.prune:g}: its levels have no 0; take bits"
                " 1.58, 3 or 4, or one after the other"
            )

    @property
    def wanted(self) -> bool:
        """Anything at all."""
        return bool(self.bits or self.prune)


class Compressing:
    """A task whose kernels are rounded, pruned or both wherever its loss uses them.

    Args:
      task: what is learned.

    Raises:
      ValueError: a pattern of ``skip`` that fits no kernel.
    """

    def __init__(self, task: ModelTask, config: CompressConfig):
        self.task, self.config = task, config
        self.constants = task.constants
        self.model, self.card = task.model, task.card
        self.first, self.frozen = task.first, task.frozen
        self._masks: dict[str, np.ndarray] = {}
        self.evaluate = None
        if (measure := task.evaluate) is not None:
            self.evaluate = lambda params: measure(jax.device_get(self.effective(params)))

    @property
    def header(self) -> Any:
        """What the weights file says of itself."""
        more = {"scheme": self._scheme.name} if self.config.bits else {}
        return {**self.task.header, **more}

    @header.setter
    def header(self, value: Any) -> None:
        self.task.header = value

    @property
    def _scheme(self) -> Any:
        return SCHEMES[f"paretoq-{self.config.bits:g}"]

    def init(self, key: Array) -> Params:
        """The task's first weights, and the first scales."""
        params = self.task.init(key)
        chosen = self._chosen(params)
        if self.config.prune:
            self._masks = {n: smallest(a, self.config.prune) for n, a in chosen.items()}
        if not self.config.bits:
            return {"task": params}
        first = lambda a: paretoq.first_alpha(_matrix(jnp.asarray(a)), self.config.bits)
        return {"task": params, "alpha": {n: first(a) for n, a in chosen.items()}}

    def init_memory(self, lanes: int) -> Carry:
        """The task's."""
        return self.task.init_memory(lanes)

    def rate_scale(self, params: Params, decay: float) -> Params:
        """The task's; scales learn as the rest does."""
        own = getattr(self.task, "rate_scale", layer_scale)
        scale = {"task": own(params["task"], decay)}
        if "alpha" in params:
            scale["alpha"] = jax.tree.map(lambda _: np.float32(1), params["alpha"])
        return scale

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        """The task's, of the effective weights."""
        return self.task.loss(self.effective(params), constants, memory, key, batch)

    def effective(self, params: Params) -> Params:
        """The task's weights as they are used."""
        flat = _flat(params["task"])
        for name in self._chosen(params["task"]):
            flat[name] = self._used(flat[name], name, params)
        return _nested(flat)

    def _used(self, kernel: Array, name: str, params: Params) -> Array:
        kernel = jnp.asarray(kernel)
        if name in self._masks:
            kernel = jnp.where(self._masks[name], kernel, 0)
        if self.config.bits:
            # a layer of a stack is a kernel of its own: its scale's gradient goes by its own size
            each = lambda w, a: paretoq.fake_quantise(w, a, self.config.bits)
            alpha, matrix = params["alpha"][name], _matrix(kernel)
            over: Any = jax.vmap(each) if matrix.ndim == 3 else each
            rounded = over(matrix, alpha)
            kernel = rounded.reshape(kernel.shape)
        return kernel

    def variables(self, params: Params) -> Params:
        """What is saved: kernels as codes with the scales that were learned."""
        flat = _flat(params["task"])
        for name in self._chosen(params["task"]):
            used = jax.device_get(flat[name])
            if name in self._masks:
                used = np.where(self._masks[name], used, 0)
            if self.config.bits:
                used = box(used, self._scheme, alpha=jax.device_get(params["alpha"][name]))
            flat[name] = used
        return self.task.variables(_nested(flat))

    def _chosen(self, params: Params) -> dict[str, Any]:
        """Kernels by name that get smaller."""
        flat = _flat(params)
        skip = (NOT_OF_THE_MODEL, *(s for p in self.config.skip for s in (p, f"student/{p}")))
        found = {n: a for n, a in flat.items() if is_kernel(n, a)}
        for pattern in self.config.skip:
            if not any(fnmatch.fnmatch(n.removeprefix("student/"), pattern) for n in found):
                near = ", ".join(list(found)[:3])
                raise ValueError(
                    f"compress.skip {pattern!r} fits no kernel; kernels are {near}, ..."
                )
        return {n: a for n, a in found.items() if not any(fnmatch.fnmatchcase(n, s) for s in skip)}


def _flat(params: Params) -> dict[str, Any]:
    return trees.flatten({"params": params})


def _nested(flat: dict[str, Any]) -> Params:
    return trees.nest(flat)["params"]


def _matrix(kernel: Array) -> Array:
    """[K, O] or [L, K, O] of a kernel [K, O], [k, k, I, O] or [L, K, O]."""
    inner = inner_shape(kernel)
    lead = kernel.shape[: kernel.ndim - len(inner)]
    return kernel.reshape(*lead, math.prod(inner[:-1]), inner[-1])
