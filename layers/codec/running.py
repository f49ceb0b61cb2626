"""Layers on codes: integer products, and inputs that are turned before a product."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..ranks import to_rank
from ..streaming import Array, Params
from . import hadamard, w8a8
from .box import Quantised, products_follow

_MADE: set[type] = set()


@runtime_checkable
class _Fused(Protocol):
    """A layer of several projections, such as ``transformer.FusedProjection``."""

    def split(self, y: Array, bias: Array | None) -> list[Array]: ...


def is_online(variables: Params) -> bool:
    """True if some kernel needs :func:`runs`."""
    leaves = jax.tree.leaves(variables, is_leaf=lambda a: isinstance(a, Quantised))
    return any(isinstance(leaf, Quantised) and leaf.online for leaf in leaves)


def runs(model: nn.Module) -> nn.Module:
    """The module, of a class whose ``apply`` multiplies by codes as their scheme says; parameters
    that are plain arrays stay what they are."""
    return model if follows(model) else _kind(type(model))(**_fields(model), parent=None)


def follows(model: Any) -> bool:
    """True for what :func:`runs` gave."""
    return type(model) in _MADE


def _fields(module: nn.Module) -> Params:
    told: Any = dataclasses.fields(module)  # pyright: ignore[reportArgumentType]
    return {f.name: vars(module)[f.name] for f in told if f.init and f.name != "parent"}


@functools.cache
def _kind(kind: type[nn.Module]) -> type[nn.Module]:
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        with products_follow(), nn.intercept_methods(_instead):
            return kind.apply(self, *args, **kwargs)

    def reduce(self):  # a pickle names a class by its module, where the plain one is
        return runs, (kind(**_fields(self), parent=None),)

    fields = {"apply": apply, "__reduce__": reduce, "__module__": kind.__module__}
    made = type(kind.__name__, (kind,), fields)
    _MADE.add(made)
    return made


def _instead(next_method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
    layer = context.module
    if context.method_name != "__call__" or not isinstance(layer, nn.Dense | _Fused):
        return next_method(*args, **kwargs)
    kernel = layer.get_variable("params", "kernel")
    if not isinstance(kernel, Quantised) or not kernel.online:
        return next_method(*args, **kwargs)
    (x,) = args
    if kernel.turned:
        x = hadamard.transform(x).astype(x.dtype)
    if kernel.scheme.activations is None:
        return next_method(x, **kwargs)
    dtype = layer.dtype or jnp.result_type(x, jnp.float32)
    y = w8a8.product(x, kernel.codes(), kernel.parts["scale"]).astype(dtype)
    bias = layer.get_variable("params", "bias")
    if isinstance(layer, _Fused):
        return layer.split(y, bias)
    return y if bias is None else y + to_rank(jnp.asarray(bias, dtype), y)
