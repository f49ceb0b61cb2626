"""Diagonal linear recurrence over time."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton as pallas_triton

from ..blocks import power_of_two_divisor
from ..dispatch import Backend, KernelError, Op
from . import pallas_generic as generic
from . import reference
from .gradient import with_gradient

Array = jax.Array

__all__ = ["linear_scan"]

LANES = 128


def _run_reference(a, b, h0, *, blocks=None):
    return with_gradient(reference.scan)(a, b, h0)


def _sizes(choose, blocks, a):
    """The blocks of ``a`` in canonical form: those given, cut to its shape, or the chosen ones."""
    rows = a.shape[2] if a.ndim == 4 else None
    chosen = choose(a.shape[1], rows, a.shape[-1])._replace(**(blocks or {}))
    whole = (a.shape[1], rows or 1, a.shape[-1])
    return generic.Blocks(*(min(size, most) for size, most in zip(chosen, whole, strict=False)))


def _pallas(a, b, h0, *, reverse, blocks):
    """The kernel, with the blocks of the platform it is lowered for."""
    tpu = functools.partial(
        generic.scan, reverse=reverse, blocks=_sizes(generic.tpu_blocks, blocks, a)
    )
    gpu = functools.partial(
        generic.scan,
        reverse=reverse,
        blocks=_sizes(generic.gpu_blocks, blocks, a),
        compiler_params=pallas_triton.CompilerParams(num_warps=2),
    )
    return lax.platform_dependent(a, b, h0, tpu=tpu, cuda=gpu)


def _interpret(a, b, h0, *, reverse, blocks):
    sizes = _sizes(generic.tpu_blocks, blocks, a)
    return generic.scan(a, b, h0, reverse=reverse, blocks=sizes, interpret=True)


def _kernel(run):
    """A backend from a kernel on canonical shapes."""

    def backend(a, b, h0, *, split, blocks=None):
        shape, state_shape = a.shape, h0.shape

        def either(*arrays, reverse):
            kernel = functools.partial(run, reverse=reverse, blocks=blocks)
            plain = functools.partial(reference.scan, reverse=reverse)
            rows = "." * (arrays[0].ndim - 3)
            state = f"b{rows}h"
            inputs = (f"b.{rows}h", f"b.{rows}h", state)
            return split.run(kernel, plain, inputs, inputs[1:])(*arrays)

        f = with_gradient(either)
        h, last = f(*generic.canonical(a, b, h0))
        return h.reshape(shape), last.reshape(state_shape)

    return backend


def _unable(a, b, h0, *, blocks=None) -> str | None:
    channels = a.shape[-1] if a.ndim > 2 else 1
    if power_of_two_divisor(channels, 16) < generic.MIN_GPU_CHANNELS:
        return f"a has {channels} channels, which is no multiple of {generic.MIN_GPU_CHANNELS}"
    return None


def _parts(a, b, h0, **_):
    """Channels are cut in whole lanes."""
    del b, h0
    channels = a.shape[-1] if a.ndim > 2 else 1
    return {"b": a.shape[0], "h": channels // LANES if channels % LANES == 0 else 1}


_op = Op(
    "linear_scan",
    Backend("reference", _run_reference),
    Backend("pallas", _kernel(_pallas), ("tpu", "cuda"), ("tpu", "cuda"), _unable, _parts),
    Backend("interpret", _kernel(_interpret), parts=_parts),
)


def _check(a, b, h0, reset, blocks):
    if a.ndim < 2 or a.shape[1] < 1 or math.prod(a.shape) == 0:
        raise KernelError(f"linear_scan: a has shape {a.shape}, but [B, T >= 1, ...] is needed")
    if b.shape != a.shape:
        raise KernelError(f"linear_scan: b has shape {b.shape}, but a has {a.shape}; equal ones")
    if h0.shape != (want := (a.shape[0], *a.shape[2:])):
        raise KernelError(
            f"linear_scan: h0 has shape {h0.shape}, but a has {a.shape}: {want} is needed"
        )
    if reset is not None and (reset.shape != a.shape[:2] or reset.dtype != jnp.bool_):
        raise KernelError(
            f"linear_scan: reset is {reset.dtype}{list(reset.shape)}, but "
            f"bool{list(a.shape[:2])} is needed"
        )
    if unknown := set(blocks or {}) - set(generic.Blocks._fields):
        raise KernelError(
            f"linear_scan: no block size {sorted(unknown)}; there are {generic.Blocks._fields}"
        )


def linear_scan(
    a: Array,
    b: Array,
    h0: Array,
    *,
    reset: Array | None = None,
    implementation: str | None = None,
    blocks: Mapping[str, int] | None = None,
) -> tuple[Array, Array]:
    """Runs h_t = a_t * h_{t-1} + b_t over axis 1, in fp32.

    The gradient is the same recurrence run backwards, on every implementation; it keeps a and h.
    A decay of exactly 0 forgets the state before it, even one that is not finite.

    Args:
      a: [B, T, ...] decay, |a| <= 1 for a stable recurrence. T >= 1.
      b: [B, T, ...] input.
      h0: [B, ...] the state before the first frame.
      reset: bool [B, T] or None; True forgets the state before that frame: h_t = b_t.
      implementation: ``"reference"``, ``"pallas"`` (TPU and CUDA), ``"interpret"`` (that kernel,
        interpreted), or None for what suits the platform; one frame always suits the reference.
      blocks: sizes of a kernel's block over the chosen ones: ``frames``, ``rows`` (of the product
        of the axes between time and the last one), ``channels``. On a GPU all frames, and powers
        of two that divide the others.

    Returns:
      (h [B, T, ...], the last h [B, ...]), both fp32.

    Raises:
      KernelError: shapes that do not belong together, or an implementation that cannot take them.
    """
    a, b, h0 = (jnp.asarray(x) for x in (a, b, h0))
    reset = None if reset is None else jnp.asarray(reset)
    _check(a, b, h0, reset, blocks)
    if reset is not None:
        a = jnp.where(reset[(...,) + (None,) * (a.ndim - 2)], 0, a)
    if implementation is None and a.shape[1] == 1:
        implementation = "reference"  # one multiplication and sum: XLA fuses it with its neighbours
    return _op(a, b, h0, implementation=implementation, blocks=blocks)
