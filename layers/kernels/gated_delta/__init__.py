"""The gated delta rule: a matrix state that decays and corrects what it stores."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton as pallas_triton

from ..dispatch import GPU_DOT, Backend, KernelError, Op
from . import pallas_generic as generic
from . import pallas_tpu as tpu
from . import reference

Array = jax.Array

__all__ = ["gated_delta", "gated_delta_recurrent"]

# Log decay of a reset: exp of it is exactly zero, and sums of it stay finite.
RESET = -1e4
GPU_CHUNK = 32  # frames: at width 128 the matrices of 64 exceed an H200's shared memory


def _reference(*arrays, chunk, blocks=None):
    return reference.chunked(*_wide(*arrays), chunk=chunk)


def _wide(q, k, v, g, beta, state):
    """Everything fp32, key heads repeated to the value heads."""
    q, k, v, g, beta, state = (x.astype(jnp.float32) for x in (q, k, v, g, beta, state))
    if k.shape[2] != v.shape[2]:  # each key head serves consecutive value heads
        q, k = (jnp.repeat(x, v.shape[2] // x.shape[2], axis=2) for x in (q, k))
    return q, k, v, g, beta, state


def _launch_tpu(arrays, chunk, blocks, **options):
    q, k, v, g, beta, state = arrays
    streams, _, dk, dv = state.shape
    if q.shape[1] == 1 and not blocks and tpu.suits(streams, dk, dv):
        q, k, v, g, beta = (x[:, 0] for x in (q, k, v, g, beta))
        o, state = tpu.step(q, k, v, g, beta, state, **options)
        return o[:, None], state
    return _launch(arrays, generic.tpu_blocks, chunk, blocks, **options)


def _launch(arrays, choose, chunk, blocks, **options):
    """The kernel for these shapes, with blocks from ``choose`` and the caller's over them."""
    q, k, v, g, beta, state = arrays
    steps = q.shape[1]
    size = 1 if steps == 1 else generic.chunk_size(chunk, steps)
    sizes = choose(*state.shape, size, -(-steps // size))
    sizes = sizes._replace(**(blocks or {}))
    if steps == 1:
        options.pop("precision", None)  # there is no matrix product in a step
        q, k, v, g, beta = (x[:, 0] for x in (q, k, v, g, beta))
        o, state = generic.step(q, k, v, g, beta, state, blocks=sizes, **options)
        return o[:, None], state
    return generic.clip(q, k, v, g, beta, state, chunk=size, blocks=sizes, **options)


def _pallas(*arrays, chunk, blocks):
    warps = 2 if arrays[0].shape[1] == 1 else 4
    return lax.platform_dependent(
        *arrays,
        tpu=lambda *a: _launch_tpu(a, chunk, blocks),
        cuda=lambda *a: _launch(
            a, generic.gpu_blocks, min(chunk, GPU_CHUNK), blocks, precision=GPU_DOT,
            compiler_params=pallas_triton.CompilerParams(num_warps=warps, num_stages=1),
        ),
    )  # fmt: skip


def _interpret(*arrays, chunk, blocks):
    return _launch_tpu(arrays, chunk, blocks, interpret=True)


def _kernel(run):
    """A backend from a kernel; backwards it runs the reference's chunks again.

    The backward pass is matrix products of whole batches, which XLA runs well; the kernel's gain
    is that only the inputs are kept for it.
    """

    def backend(*arrays, chunk, blocks=None):
        plain = functools.partial(reference.chunked, chunk=chunk)

        @jax.custom_vjp
        def f(*arrays):
            return run(*arrays, chunk=chunk, blocks=blocks)

        def forward(*arrays):
            return f(*arrays), arrays

        def backward(arrays, cotangents):
            def wide(*arrays):
                return plain(*(x.astype(jnp.float32) for x in arrays))

            return jax.vjp(wide, *arrays)[1](cotangents)

        f.defvjp(forward, backward)
        q, k, v, g, beta, state = arrays
        if k.shape[2] != v.shape[2]:
            q, k = (jnp.repeat(x, v.shape[2] // x.shape[2], axis=2) for x in (q, k))
        return f(q, k, v, g, beta, state.astype(jnp.float32))

    return backend


def _unable(q, k, v, g, beta, state, *, chunk, blocks=None) -> str | None:
    for name, x in (("k", k), ("v", v)):
        width = x.shape[-1]
        if width < 16 or width & (width - 1):
            return f"{name} has head width {width}, which is no power of two of at least 16"
        if width > 256:
            return f"{name} has head width {width}, more than 256"
    return None


_op = Op(
    "gated_delta",
    Backend("reference", _reference),
    Backend("pallas", _kernel(_pallas), ("tpu", "cuda"), ("tpu", "cuda"), _unable),
    Backend("interpret", _kernel(_interpret)),
)


def _prepare(q, k, v, g, beta, state, reset):
    """Checked arrays; a state made if None, resets written into the decay."""
    q, k, v, g, beta = (jnp.asarray(x) for x in (q, k, v, g, beta))

    def wrong(name: str, got: object, want: str):
        raise KernelError(f"gated_delta: {name} is {got}, but {want} is needed")

    if q.ndim != 4 or q.shape != k.shape or q.shape[1] < 1:
        wrong("q", q.shape, f"[B, T >= 1, Hk, dk] as k ({k.shape})")
    if v.ndim != 4 or v.shape[:2] != q.shape[:2]:
        wrong("v", v.shape, f"[{q.shape[0]}, {q.shape[1]}, H, dv] as of q {q.shape}")
    (batch, steps, heads, dv), dk = v.shape, q.shape[-1]
    if heads % k.shape[2]:
        raise KernelError(
            f"gated_delta: {heads} value heads are not a multiple of {k.shape[2]} key heads"
        )
    for name, x in (("g", g), ("beta", beta)):
        if x.shape != (batch, steps, heads):
            wrong(name, x.shape, f"{(batch, steps, heads)}")
    if state is None:
        state = jnp.zeros((batch, heads, dk, dv), jnp.float32)
    state = jnp.asarray(state)
    if state.shape != (batch, heads, dk, dv):
        wrong("state", state.shape, f"{(batch, heads, dk, dv)}")
    g = g.astype(jnp.float32)
    if reset is not None:
        reset = jnp.asarray(reset)
        if reset.shape != (batch, steps) or reset.dtype != jnp.bool_:
            wrong("reset", f"{reset.dtype}{list(reset.shape)}", f"bool[{batch}, {steps}]")
        g = jnp.where(reset[..., None], RESET, g)
    return q, k, v, g, beta.astype(jnp.float32), state


def gated_delta_recurrent(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    state: Array | None,
    *,
    reset: Array | None = None,
) -> tuple[Array, Array]:
    """The definition, one frame after the other. Arguments as :func:`gated_delta`."""
    o, state = reference.recurrent(*_wide(*_prepare(q, k, v, g, beta, state, reset)))
    return o.astype(v.dtype), state


def gated_delta(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    state: Array | None,
    *,
    chunk: int = 64,
    reset: Array | None = None,
    implementation: str | None = None,
    blocks: Mapping[str, int] | None = None,
) -> tuple[Array, Array]:
    """The gated delta rule over axis 1: one step for T = 1, chunks of ``chunk`` frames beyond.

    Args:
      q, k: [B, T, Hk, dk], usually L2-normalised; q is scaled by dk ** -0.5 here.
      v: [B, T, H, dv], H a multiple of Hk.
      g: [B, T, H] log decay, finite and <= 0.
      beta: [B, T, H] writing strength, 0 .. 1 (or .. 2). g = beta = 0 leaves the state as it was.
      state: [B, H, dk, dv] before the first frame, or None for zeros. Kernels update it in place
        where it is donated.
      chunk: frames per chunk, rounded up to a power of two; T need not be a multiple.
      reset: bool [B, T] or None; True forgets the state before that frame. At the first frame it
        forgets even a state that is not finite.
      implementation: ``"reference"``, ``"pallas"`` (TPU and CUDA; head widths powers of two,
        16 .. 256), ``"interpret"`` (that kernel, interpreted), or None for what suits the
        platform.
      blocks: sizes of a kernel's program over the chosen ones: ``rows`` (streams), ``heads``,
        ``chunks`` (of the grid's time axis; on a GPU all of them).

    Returns:
      (o [B, T, H, dv] in the dtype of v, the last state fp32).

    Raises:
      KernelError: chunk < 1, H is no multiple of Hk, shapes that do not belong together, or an
        implementation that cannot take them.
    """
    if chunk < 1:
        raise KernelError(f"gated_delta: chunk {chunk} must be at least 1")
    if unknown := set(blocks or {}) - set(generic.Blocks._fields):
        raise KernelError(
            f"gated_delta: no block size {sorted(unknown)}; there are {generic.Blocks._fields}"
        )
    arrays = _prepare(q, k, v, g, beta, state, reset)
    o, last = _op(*arrays, implementation=implementation, chunk=chunk, blocks=blocks)
    return o.astype(v.dtype), last
