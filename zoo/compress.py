"""Models on fewer bits: kernels as codes, in the file and in memory.

    model, params, card = compress("tsa-lite0/synth", "w4a16-g64", skip=("*head*",))
    carry, out = model.apply(params, model.init_carry(1), frames)
    zoo.save("small.safetensors", params, header(card, "w4a16-g64"))
    model, params = zoo.load("small.safetensors")            # the same codes

A kernel is dequantised where its layer uses it, or multiplied as integers (w8a8). The schemes are
``codec.box.SCHEMES``. Kernels whose inputs do not divide into a scheme's groups take int8.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

import jax

from ..layers.codec.box import Quantised, box, fitting
from ..layers.codec.running import is_online, runs
from ..layers.streaming import Fields, Params
from .codes import scheme_of
from .errors import WeightsError
from .int8 import is_kernel
from .registry import Card
from .resolve import Resolved, resolve, stated
from .trees import flatten, nest


@overload
def compress(
    name_or_params: str | Path, scheme: str, skip: Iterable[str] = (), **overrides: Any
) -> Resolved: ...
@overload
def compress(name_or_params: Params, scheme: str, skip: Iterable[str] = ()) -> Params: ...
def compress(
    name_or_params: Any, scheme: str, skip: Iterable[str] = (), **overrides: Any
) -> Resolved | Params:
    """A model with quantised kernels; of variables, the variables.

    Args:
      name_or_params: as of ``zoo.resolve``, or variables ``{"params": tree}``.
      scheme: a name of ``codec.box.SCHEMES``.
      skip: shell patterns of kernels that stay floats ("stem/*", "*head*").
      overrides: config fields to replace.

    Raises:
      WeightsError: an unknown scheme; a pattern that fits no kernel; a kernel that has no such
        form; weights that are quantised already; and the errors of ``zoo.resolve``.
    """
    how, patterns = scheme_of(scheme), tuple(skip)
    if isinstance(name_or_params, Mapping):
        return _variables(name_or_params, how, patterns)
    model, params, card = resolve(name_or_params, **overrides)
    params = jax.device_put(_variables(params, how, patterns))
    return Resolved(running(model, params), params, card)


def running(model: Any, variables: Params) -> Any:
    """The module that computes with these variables as their schemes say: itself, or of a class
    that sees to its layers' inputs."""
    return runs(model) if is_online(variables) else model


def _variables(variables: Params, scheme: Any, skip: tuple[str, ...]) -> Params:
    flat = flatten(variables)
    kernels = [name for name, leaf in flat.items() if is_kernel(name, leaf)]
    if is_quantised(variables):
        raise WeightsError("these weights are quantised already; compress the floats they are from")
    for pattern in skip:
        if not fnmatch.filter(kernels, pattern):
            near = ", ".join(kernels[:3])
            raise WeightsError(f"skip {pattern!r} fits no kernel; kernels are {near}, ...")
    chosen = [n for n in kernels if not any(fnmatch.fnmatchcase(n, p) for p in skip)]
    for name in chosen:
        try:
            flat[name] = box(flat[name], fitting(scheme, flat[name]))
        except ValueError as error:
            raise WeightsError(f"{name}: {error}; leave it out with skip={name!r}") from None
    return nest(flat)


def floats(variables: Params) -> Params:
    """The variables with every kernel as the fp32 array that its codes stand for."""
    flat = flatten(variables)
    return nest({n: a.dequantised() if isinstance(a, Quantised) else a for n, a in flat.items()})


def kinds(variables: Params) -> dict[str, int]:
    """How many kernels each scheme holds, and under "floats" how many are as they were."""
    flat = flatten(variables)
    found = Counter(
        leaf.scheme.name if isinstance(leaf, Quantised) else "floats"
        for name, leaf in flat.items()
        if isinstance(leaf, Quantised) or is_kernel(name, leaf)
    )
    return dict(found)


def is_quantised(tree: Any) -> bool:
    """True if some kernel of a tree of parameters is kept as codes."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda a: isinstance(a, Quantised))
    return any(isinstance(leaf, Quantised) for leaf in leaves)


def bytes_of(variables: Params) -> int:
    """Bytes of all arrays, as they lie in memory and in a file."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(variables))


def header(card: Card, scheme: str) -> Fields:
    """The metadata of ``zoo.save`` for a compressed model: what it was, without the metric, which
    was that of the floats."""
    facts = {k: v for k, v in stated(card).items() if k not in ("metric", "metric_command")}
    summary = f"{card.summary} ({scheme})" if card.summary else scheme
    config = dict(card.overrides)
    return {"model": card.arch, "config": config, **facts, "summary": summary, "scheme": scheme}
