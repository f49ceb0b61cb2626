"""Trees of parameters under flat names, compared with what a model wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..layers.codec.box import Quantised
from ..layers.streaming import DType, Params
from . import registry
from .errors import WeightsError


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Comma-separated names; beyond ``limit`` the rest is counted."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def flatten(variables: Params) -> dict[str, Any]:
    """Linen variables ``{"params": tree}`` -> {"a/b/kernel": leaf}.

    Raises WeightsError for other collections and for names that hold a '/'.
    """
    if not isinstance(variables, Mapping) or set(variables) != {"params"}:
        got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise WeightsError(f"expected the variables dict {{'params': tree}}, got {got}")
    flat: dict[str, Any] = {}

    def walk(tree: Mapping, prefix: str) -> None:
        for key, value in tree.items():
            if not isinstance(key, str) or "/" in key or not key:
                raise WeightsError(f"parameter name {key!r} under {prefix!r}: no '/' allowed")
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}/")
            else:
                flat[prefix + key] = value

    walk(variables["params"], "")
    return flat


def nest(flat: Params) -> Params:
    """The inverse of :func:`flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise WeightsError(f"{name!r}: {part!r} is an array and a folder at once")
        if leaf in node:
            raise WeightsError(f"{name!r} is an array and a folder at once")
        node[leaf] = value
    return {"params": tree}


def is_float(dtype: DType) -> bool:
    """True for every floating type, bfloat16 and float8 included."""
    import jax.numpy as jnp

    return bool(jnp.issubdtype(dtype, jnp.floating))


def as_float(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Floating arrays cast to ``dtype``; others, and quantised ones, untouched."""
    if isinstance(array, Quantised) or not is_float(array.dtype):
        return array
    return array.astype(dtype, copy=False)


def check_tree(
    flat: Params,
    template: Params,
    where: str,
    *,
    hint: str = "",
    error: type[WeightsError] = WeightsError,
) -> None:
    """Compares names, shapes and kinds with the variables ``template``, all at once.

    Raises ``error`` listing every missing, unexpected and mis-shaped name.
    """
    wanted = flatten(template)
    shaped = []
    for name in wanted.keys() & flat.keys():
        new, old = flat[name], wanted[name]
        if tuple(new.shape) != tuple(old.shape):
            shaped.append(f"{name} {list(new.shape)} instead of {list(old.shape)}")
        elif is_float(new.dtype) != is_float(old.dtype):
            shaped.append(f"{name} {new.dtype} instead of {old.dtype}")
    groups = {
        "missing": sorted(wanted.keys() - flat.keys(), key=registry.natural),
        "unexpected": sorted(flat.keys() - wanted.keys(), key=registry.natural),
        "mis-shaped": sorted(shaped, key=registry.natural),
    }
    found = [f"{len(v)} {kind}: {listing(v)}" for kind, v in groups.items() if v]
    if found:
        raise error(f"{where} does not fit this model; " + "; ".join(found) + hint)
