"""Low-rank adaptation: matrices stay as they are and learn a difference of low rank.

Source: Hu et al., "LoRA" (arXiv 2106.09685). The difference of a matrix [D, O] is a [D, r] @
b [r, O]; b begins as zeros, so a model begins as what it was. While it learns, the product with the
matrix itself needs no gradient of the matrix, which saves a third of a step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from .streaming import Array, Params
from .transformer.attention import FusedProjection

Lora = Mapping[str, Mapping[str, Array]]  # "encoder_0/attn/qkv" -> {"a": [D, r], "b": [r, O]}


def matrices(params: Params, match: str) -> dict[str, Array]:
    """The matrices of ``params`` (those of ``{"params": params}``) whose path ``match`` finds, by
    the path of their module.

    Raises:
      ValueError: there are none.
    """
    flat: dict[str, Any] = flatten_dict(dict(params), sep="/")  # pyright: ignore
    found = {
        path.removesuffix("/kernel"): leaf
        for path, leaf in flat.items()
        if path.endswith("/kernel") and leaf.ndim == 2 and re.search(match, path)
    }
    if not found:
        raise ValueError(f"no matrix of the model has a path that {match!r} finds")
    return found


def first(params: Params, match: str, rank: int, key: Array) -> dict[str, dict[str, Array]]:
    """Differences that are zero, of the matrices that ``match`` finds."""
    made = {}
    for number, (path, kernel) in enumerate(sorted(matrices(params, match).items())):
        wide, out = kernel.shape
        a = jax.random.normal(jax.random.fold_in(key, number), (wide, rank)) / jnp.sqrt(wide)
        made[path] = {"a": a, "b": jnp.zeros((rank, out), a.dtype)}
    return made


def merged(params: Params, lora: Lora) -> Params:
    """``params`` with the differences added to their matrices.

    Raises:
      ValueError: a difference of a matrix that is not there, or of another shape.
    """
    flat: dict[str, Any] = flatten_dict(dict(params), sep="/")  # pyright: ignore
    for path, pair in lora.items():
        kernel, change = flat.get(f"{path}/kernel"), pair["a"] @ pair["b"]
        if kernel is None or kernel.shape != change.shape:
            here = "none is there" if kernel is None else f"{list(kernel.shape)} is there"
            raise ValueError(f"a low-rank change of {path}, {list(change.shape)}: {here}")
        flat[f"{path}/kernel"] = kernel + change.astype(kernel.dtype)
    return unflatten_dict(flat, sep="/")


def adapted(lora: Lora) -> Any:
    """A context in which modules answer as if ``lora`` were added to their matrices."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out, module = call(*args, **kwargs), context.module
        called = (
            isinstance(module, nn.Dense | FusedProjection) and context.method_name == "__call__"
        )
        pair = lora.get("/".join(module.path)) if called else None
        if pair is None:
            return out
        change = (args[0] @ pair["a"]) @ pair["b"]
        if isinstance(module, FusedProjection):
            return [y + d for y, d in zip(out, module.split(change, None), strict=True)]
        return out + change

    return nn.intercept_methods(intercept)
