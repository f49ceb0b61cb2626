"""Which implementation a call or a model takes on each platform, why, and what it costs there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from .dispatch import Choice, place, recording

CALLED = {"cuda": "gpu"}  # platforms as a user calls them


@dataclass(frozen=True)
class Explanation(Mapping[str, Choice]):
    """The choice of each platform: ``explanation["tpu"].implementation``; prints as a table.

    A function that calls several operations has more choices than the first call's, which are the
    mapping: ``choices`` holds all.
    """

    choices: tuple[Choice, ...]
    asked: str | None = None  # the implementation that the call named
    costs: bool = False  # printed as well

    def __getitem__(self, platform: str) -> Choice:
        return self._first()[platform]

    def __iter__(self):
        return iter(self._first())

    def __len__(self) -> int:
        return len(self._first())

    def _first(self) -> dict[str, Choice]:
        found: dict[str, Choice] = {}
        for choice in self.choices:
            found.setdefault(CALLED.get(choice.platform, choice.platform), choice)
        return found

    def __str__(self) -> str:
        return "\n".join(dict.fromkeys(map(self._line, self.choices)))  # as of many equal blocks

    def _line(self, choice: Choice) -> str:
        where = CALLED.get(choice.platform, choice.platform)
        line = f"{choice.op} on {where}: {choice.implementation}"
        if choice.where:
            times = f" x {choice.times}" if choice.times > 1 else ""
            line = f"{choice.where}{times}: {line}"
        if choice.named:
            by = "the call names it" if self.asked else f"{choice.op} itself names it for these"
            return f"{line} ({', '.join([by, *choice.refused.values()])})"
        why = "; ".join(f"not {name}: {reason}" for name, reason in choice.refused.items())
        split = str(choice.split or "")
        line = f"{line} ({'; '.join(filter(None, (split, why)))})" if split or why else line
        return f"{line}; {choice.cost()}" if self.costs else line


def explain_model(
    model: nn.Module,
    batch: int = 1,
    platform: str | None = None,
    devices: int | Mapping[str, int] = 1,
    *,
    steps: int = 1,
    frame_shape: tuple[int, int] | None = None,
    params: Any = None,
) -> Explanation:
    """What every layer of a model takes for ``steps`` frames of ``batch`` streams.

    The model is traced as its user's ``jit`` traces it, and what the dispatcher did is told: for
    each call the layer, how many of them, the implementation and why no other, how the kernel is
    shared out, its blocks and fast memory, bytes and FLOPs.

    Args:
      model: with ``init_carry(batch, frame_shape)``, taking (carry, frames [B, T, h, w, 3]).
      platform: ``cpu``, ``gpu`` or ``tpu``; None for all.
      devices: their number, which share out the streams, or a mesh such as
        ``{"data": 4, "tensor": 2}``, of which ``data`` and ``fsdp`` share out the streams.
      frame_shape: (h, w) in pixels; None takes the config's ``image_size``.
      params: as of ``model.init``, also shapes; None traces ``model.init``.

    Raises:
      ValueError: no such platform, or streams that the devices do not share out evenly.
    """
    known = ("cpu", "gpu", "tpu")
    if platform not in (None, *known):
        raise ValueError(f"platform {platform!r} is none of {', '.join(known)}")
    sizes = {"data": devices} if isinstance(devices, int) else dict(devices)
    axes = tuple(name for name in ("data", "fsdp") if sizes.get(name, 1) > 1)
    share = math.prod(sizes[name] for name in axes)
    if batch % share:
        raise ValueError(f"batch {batch} is not shared out evenly over {share} devices")
    several = math.prod(sizes.values()) > 1
    mesh = None
    if several:  # axes whose arrays the compiler places, as plain jit does; jax >= 0.12 has others
        kinds = (AxisType.Auto,) * len(sizes)
        mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)

    def placed(tree: Any, *spec: Any) -> Any:
        where = None if mesh is None else NamedSharding(mesh, P(*spec))
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)

    described: Any = model
    size = frame_shape or described.config.image_size

    def inputs(batch: int) -> tuple[Any, Any]:
        carry = jax.eval_shape(lambda: described.init_carry(batch, size))
        return carry, jax.ShapeDtypeStruct((batch, steps, *size, 3), "float32")

    if params is None:
        params = jax.eval_shape(model.init, jax.random.key(0), *inputs(1))
    carry, frames = (placed(tree, axes or None) for tree in inputs(batch))

    def path(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        with place(".".join(context.module.path)):
            return next_fun(*args, **kwargs)

    with recording() as choices, nn.intercept_methods(path):
        jax.eval_shape(lambda *a: model.apply(*a), placed(params), carry, frames)
    own = [c for c in choices if platform in (None, CALLED.get(c.platform, c.platform))]
    # the body of a scan is traced more than once
    return Explanation(tuple(c for i, c in enumerate(own) if c not in own[:i]), costs=True)


def explain(op: Callable[..., Any] | nn.Module, *args: Any, **options: Any) -> Explanation:
    """Which implementation ``op(*args, **options)`` would take on cpu, gpu and tpu, and why.

    The call is traced and not computed; what is said is what the dispatcher did while it was. So
    it also tells what a layer's or a model's ``apply`` would take, where no ``jit`` inside has kept
    its trace.

    Args:
      op: an operation of ``layers/kernels``, or any function that calls some; or a model, then
        with the arguments of :func:`explain_model`: ``explain(model, 8, "tpu", devices=8)``.
      args, options: as of the call; arrays, or shapes and dtypes (``jax.ShapeDtypeStruct``).

    Returns:
      The choices, by platform of the first operation that was called.

    Raises:
      KernelError: the operation does not take these arguments at all.
      ValueError: no operation was called.
    """
    if isinstance(op, nn.Module):
        return explain_model(op, *args, **options)
    leaves, tree = jax.tree.flatten((args, options))
    arrays = {i: x for i, x in enumerate(leaves) if hasattr(x, "shape") and hasattr(x, "dtype")}

    def call(arrays: dict[int, Any]) -> Any:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, options = jax.tree.unflatten(tree, filled)
        return op(*args, **options)

    with recording() as choices:
        jax.eval_shape(call, arrays)
    if not choices:
        name = getattr(op, "__name__", type(op).__name__)
        raise ValueError(
            f"{name} called no operation of layers/kernels: there is nothing to choose"
        )
    return Explanation(tuple(choices), options.get("implementation"))
