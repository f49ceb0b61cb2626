"""State space duality: linear attention whose matrix state decays by one number per head.

Two faces of one operation. :func:`linear_attention` is the operation itself; :func:`ssd` is the
selective state space of Mamba-2 written in its own terms. Source: Dao, Gu (2024), "Transformers
are SSMs" (arXiv 2405.21060).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ...ranks import to_rank
from ..dispatch import Backend, KernelError, Op
from . import pallas_generic
from .reference import chunked, recurrent

Array = jax.Array
__all__ = ["SSD", "linear_attention", "recurrent", "ssd"]

# Log decay of a reset: exp of it is exactly zero, and sums of it stay finite.
RESET = -1e4

_kernels = pallas_generic
SSD = Op(
    "ssd",
    Backend("reference", chunked),
    Backend(
        "pallas",
        _kernels.compiled,
        ("tpu", "cuda"),
        ("tpu", "cuda"),
        _kernels.unable,
        _kernels.parts,
    ),
    Backend("interpret", _kernels.interpret, unable=_kernels.unable, parts=_kernels.parts),
)


def _check(q: Array, k: Array, v: Array, g: Array, state: Array, chunk: int) -> None:
    def wrong(name: str, value: object, want: str) -> None:
        raise KernelError(f"ssd: {name} {value} {want}")

    if q.ndim != 4 or q.shape != k.shape:
        wrong("q", q.shape, f"is not [B, T, G, n] like k {k.shape}")
    batch, steps, groups, n = k.shape
    if v.ndim != 3 or v.shape[:2] != (batch, steps):
        wrong("v", v.shape, f"is not [{batch}, {steps}, H * P]")
    if g.ndim != 3 or g.shape[:2] != (batch, steps):
        wrong("g", g.shape, f"is not [{batch}, {steps}, H]")
    heads, channels = g.shape[2], v.shape[2]
    if channels % heads:
        wrong("v", v.shape, f"has {channels} channels, no multiple of {heads} heads")
    if heads % groups:
        wrong("g", g.shape, f"has {heads} heads, no multiple of the {groups} groups of q and k")
    if state.shape != (batch, n, channels):
        wrong("state", state.shape, f"is not [{batch}, {n}, {channels}]")
    if steps < 1 or chunk < 1:
        wrong("chunk", chunk, f"and T {steps} must be at least 1")


def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    state: Array | None = None,
    *,
    reset: Array | None = None,
    chunk: int = 64,
    blocks: Mapping[str, int] | None = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, over axis 1; any T >= 1.

    Args:
      q, k: [B, T, G, n], fp32 or bf16; group i serves heads i H / G .. (i + 1) H / G - 1.
      v: [B, T, H * P], the heads side by side.
      g: [B, T, H] log decay, finite and <= 0; k = 0 and g = 0 leave the state as it was.
      state: [B, n, H * P] before the first frame, or None for zeros. All channels lie in the
        last axis, so that it fills whole vector lanes.
      reset: [B, T] bool, True forgets everything before that frame.
      chunk: frames per chunk for T > 1; T need not be a multiple.
      blocks: block sizes of the kernels in place of those of ``blocks.TABLE``: ``rows`` streams
        per program of a step, ``lanes`` channels per program.
      implementation: ``reference``, ``pallas`` (TPU, GPU) or ``interpret``; None chooses.

    Returns:
      (o [B, T, H * P] in the dtype of v, the last state fp32).

    Raises:
      KernelError: shapes that do not fit each other, or that a named implementation cannot take.
    """
    if state is None:
        state = jnp.zeros((v.shape[0], k.shape[-1], v.shape[-1]), jnp.float32)
    _check(q, k, v, g, state, chunk)
    g = g.astype(jnp.float32)
    if reset is not None:
        g = jnp.where(reset[..., None], RESET, g)
    sizes = None if blocks is None else tuple(sorted(blocks.items()))
    o, last = SSD(q, k, v, g, state, implementation=implementation, chunk=chunk, blocks=sizes)
    return o.astype(v.dtype), last


def ssd(
    x: Array,
    dt: Array,
    a: Array,
    b: Array,
    c: Array,
    state: Array | None = None,
    *,
    d: Array | None = None,
    reset: Array | None = None,
    chunk: int = 64,
    blocks: Mapping[str, int] | None = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Mamba-2's recurrence h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t, y_t = c_t h_t + d x_t.

    Args:
      x: [B, T, H * P], the heads side by side, fp32 or bf16.
      dt: [B, T, H] step sizes >= 0; 0 leaves the state as it was (a gap).
      a: [H] rates < 0.
      b, c: [B, T, G, n], each group for H / G consecutive heads.
      state: h [B, n, H * P] before the first frame, or None for zeros.
      d: [H] the skip's gain, or None for no skip.
      reset, chunk, blocks, implementation: as :func:`linear_attention`.

    Returns:
      (y [B, T, H * P] in the dtype of x, the last h fp32).

    Raises:
      KernelError: as :func:`linear_attention`.
    """
    dt = dt.astype(jnp.float32)
    heads = dt.shape[-1]
    if x.ndim != 3 or x.shape[-1] % heads:
        raise KernelError(f"ssd: x {x.shape} is not [B, T, H * P] with the {heads} heads of dt")

    def scaled(gain: Array) -> Array:  # gain [B, T, H] or [H], per head
        parts = x.astype(jnp.float32).reshape(*x.shape[:2], heads, -1)
        return (parts * to_rank(gain[..., None], parts)).reshape(x.shape)

    y, state = linear_attention(
        c,
        b,
        scaled(dt),
        dt * to_rank(a.astype(jnp.float32), dt),
        state,
        reset=reset,
        chunk=chunk,
        blocks=blocks,
        implementation=implementation,
    )
    if d is not None:
        y = y + scaled(d.astype(jnp.float32))
    return y.astype(x.dtype), state
