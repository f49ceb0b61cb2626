"""The gated delta rule: a matrix state that decays and corrects what it stores."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton as pallas_triton

from ...stacked import Layer
from ..dispatch import GPU_DOT, Backend, KernelError, Op
from . import pallas_generic as generic
from . import pallas_tpu as tpu
from . import reference

Array = jax.Array

__all__ = ["gated_delta", "gated_delta_recurrent"]

# Log decay of a reset: exp of it is exactly zero, and sums of it stay finite.
RESET = -1e4
GPU_CHUNK = 32  # frames: at width 128 the matrices of 64 exceed an H200's shared memory


def _reference(q, k, v, g, beta, state, layer, *, chunk, blocks=None):
    del blocks
    lead = v.shape[:-3]  # streams, in one axis or two

    def plain(state):
        flat = [_flat(x, lead) for x in (q, k, v, g, beta, state)]
        o, state = reference.chunked(*_wide(*flat), chunk=chunk)
        return o.reshape(*lead, *o.shape[1:]), state.reshape(*lead, *state.shape[1:])

    if layer is None:
        return plain(state)
    o, own = plain(Layer(state, layer).read())
    return o, Layer(state, layer).write(own).stack


def _flat(x, lead):
    return x.reshape(-1, *x.shape[len(lead) :])


def _wide(*arrays):
    """Everything fp32, key heads repeated to the value heads."""
    q, k, v, g, beta, state = (x.astype(jnp.float32) for x in arrays)
    if k.shape[2] != v.shape[2]:  # each key head serves consecutive value heads
        q, k = (jnp.repeat(x, v.shape[2] // x.shape[2], axis=2) for x in (q, k))
    return q, k, v, g, beta, state


def _launch_tpu(q, k, v, g, beta, state, layer, *, chunk, blocks, **options):
    lead = v.shape[:-3]
    if v.shape[-3] > 1 or "chunks" in (blocks or {}):
        return _launch(q, k, v, g, beta, state, layer, choose=generic.tpu_blocks, chunk=chunk,
                       blocks=blocks, **options)  # fmt: skip
    stack, group = (state if layer is not None else state[:, None]), len(lead) == 2
    if not group:  # the streams are one group
        stack = stack.swapaxes(0, 1)[None]
    each = [x if group else x[None] for x in (q, k, v, g, beta)]
    each = [jax.lax.index_in_dim(x, 0, 2, keepdims=False) for x in each]
    which = 0 if layer is None else layer
    o, stack = tpu.step(*each, stack=stack, layer=which, **(blocks or {}), **options)
    o = o.reshape(*lead, 1, *o.shape[2:])
    if not group:
        stack = stack[0].swapaxes(0, 1)
    return o, stack if layer is not None else stack[:, 0]


def _launch(q, k, v, g, beta, state, layer, *, choose, chunk, blocks, **options):
    """The kernel for these shapes, with blocks from ``choose`` and the caller's over them."""
    lead, steps = v.shape[:-3], v.shape[-3]
    own = state if layer is None else Layer(state, layer).read()
    q, k, v, g, beta, own = (_flat(x, lead) for x in (q, k, v, g, beta, own))
    size = 1 if steps == 1 else generic.chunk_size(chunk, steps)
    sizes = choose(*own.shape, size, -(-steps // size))
    sizes = sizes._replace(**(blocks or {}))
    if steps == 1:
        options.pop("precision", None)  # there is no matrix product in a step
        q, k, v, g, beta = (x[:, 0] for x in (q, k, v, g, beta))
        o, own = generic.step(q, k, v, g, beta, own, blocks=sizes, **options)
        o = o[:, None]
    else:
        o, own = generic.clip(q, k, v, g, beta, own, chunk=size, blocks=sizes, **options)
    o, own = (x.reshape(*lead, *x.shape[1:]) for x in (o, own))
    return o, own if layer is None else Layer(state, layer).write(own).stack


def _pallas(*arrays, chunk, blocks):
    warps = 2 if arrays[2].shape[-3] == 1 else 4
    return lax.platform_dependent(
        *arrays,
        tpu=functools.partial(_launch_tpu, chunk=chunk, blocks=blocks),
        cuda=functools.partial(
            _launch, choose=generic.gpu_blocks, chunk=min(chunk, GPU_CHUNK), blocks=blocks,
            precision=GPU_DOT,
            compiler_params=pallas_triton.CompilerParams(num_warps=warps, num_stages=1),
        ),
    )  # fmt: skip


def _interpret(*arrays, chunk, blocks):
    return _launch_tpu(*arrays, chunk=chunk, blocks=blocks, interpret=True)


def _parts(q, k, v, g, beta, state, layer, **_):
    del q, g, beta, state, layer
    return {"b": v.shape[0], "h": math.gcd(k.shape[-2], v.shape[-2])}


def _kernel(run):
    """A backend from a kernel; backwards it runs the reference's chunks again.

    The backward pass is matrix products of whole batches, which XLA runs well; the kernel's gain
    is that only the inputs are kept for it.
    """

    def backend(*arrays, chunk, split, blocks=None):
        layer = arrays[-1]
        plain = functools.partial(_reference, chunk=chunk)
        more = "." * (arrays[2].ndim - 4)  # a second axis of streams
        frame = f"b{more}.h"
        state = f"b{'' if layer is None else '.'}{more}h.."
        inputs = (f"{frame}.",) * 3 + (frame,) * 2 + (state, None if layer is None else "")
        kernel = functools.partial(run, chunk=chunk, blocks=blocks)
        here = split.run(kernel, plain, inputs, (f"{frame}.", state))

        @jax.custom_vjp
        def f(*arrays):
            return here(*arrays)

        def forward(*arrays):
            *kept, state, layer = arrays
            if layer is not None:  # kept for the way back: this layer's state, and no other one's
                state = Layer(state, layer).read()
            return here(*arrays), (*kept, state, layer)

        def backward(arrays, cotangents):
            *floats, layer = arrays
            do, after = cotangents
            after = after if layer is None else Layer(after, layer)
            last = after if layer is None else after.read()
            *slopes, own = jax.vjp(lambda *a: plain(*a, layer=None), *floats)[1]((do, last))
            if layer is None:
                return *slopes, own, None
            return *slopes, after.write(own).stack, np.zeros((), jax.dtypes.float0)

        f.defvjp(forward, backward)
        q, k, v, g, beta, state_, layer = arrays
        if k.shape[-2] != v.shape[-2]:
            q, k = (jnp.repeat(x, v.shape[-2] // x.shape[-2], axis=-2) for x in (q, k))
        return f(q, k, v, g, beta, state_.astype(jnp.float32), layer)

    return backend


def _unable(q, k, v, g, beta, state, layer, *, chunk, blocks=None) -> str | None:
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
    Backend("pallas", _kernel(_pallas), ("tpu", "cuda"), ("tpu", "cuda"), _unable, _parts),
    Backend("interpret", _kernel(_interpret), parts=_parts),
)


def _prepare(q, k, v, g, beta, state, reset):
    """Checked arrays; a state made if None, resets written into the decay."""
    q, k, v, g, beta = (jnp.asarray(x) for x in (q, k, v, g, beta))

    def wrong(name: str, got: object, want: str):
        raise KernelError(f"gated_delta: {name} is {got}, but {want} is needed")

    if q.ndim not in (4, 5) or q.shape != k.shape or q.shape[-3] < 1:
        wrong("q", q.shape, f"[B, T >= 1, Hk, dk] as k ({k.shape})")
    if v.ndim != q.ndim or v.shape[:-2] != q.shape[:-2]:
        wrong("v", v.shape, f"{[*q.shape[:-2], 'H', 'dv']} as of q {q.shape}")
    (*lead, steps, heads, dv), dk = v.shape, q.shape[-1]
    if heads % k.shape[-2]:
        raise KernelError(
            f"gated_delta: {heads} value heads are not a multiple of {k.shape[-2]} key heads"
        )
    for name, x in (("g", g), ("beta", beta)):
        if x.shape != (*lead, steps, heads):
            wrong(name, x.shape, f"{(*lead, steps, heads)}")
    want = (*lead, heads, dk, dv)
    if state is None:
        state = jnp.zeros(want, jnp.float32)
    if isinstance(state, Layer):
        own = (state.stack.shape[0], *state.stack.shape[2:])
    else:
        state = jnp.asarray(state)
        own = state.shape
    if own != want:
        wrong("state", own, f"{want}")
    g = g.astype(jnp.float32)
    if reset is not None:
        reset = jnp.asarray(reset)
        if reset.shape != (*lead, steps) or reset.dtype != jnp.bool_:
            wrong("reset", f"{reset.dtype}{list(reset.shape)}", f"bool{[*lead, steps]}")
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
    state: Array | Layer | None,
    *,
    chunk: int = 64,
    reset: Array | None = None,
    implementation: str | None = None,
    blocks: Mapping[str, int] | None = None,
) -> tuple[Array, Any]:
    """The gated delta rule over time: one step for T = 1, chunks of ``chunk`` frames beyond.

    Args:
      q, k: [B, T, Hk, dk], usually L2-normalised; q is scaled by dk ** -0.5 here. All arrays may
        have a second axis of streams, [B, N, ...].
      v: [B, T, H, dv], H a multiple of Hk.
      g: [B, T, H] log decay, finite and <= 0.
      beta: [B, T, H] writing strength, 0 .. 1 (or .. 2). g = beta = 0 leaves the state as it was.
      state: [B, H, dk, dv] before the first frame, or None for zeros. Kernels update it in place
        where it is donated. A :class:`~streamzoo.layers.stacked.Layer` of [B, L, N, H, dk, dv] is
        updated within its stack.
      chunk: frames per chunk, rounded up to a power of two; T need not be a multiple.
      reset: bool [B, T] or None; True forgets the state before that frame. At the first frame it
        forgets even a state that is not finite.
      implementation: ``"reference"``, ``"pallas"`` (TPU and CUDA; head widths powers of two,
        16 .. 256), ``"interpret"`` (that kernel, interpreted), or None for what suits the
        platform.
      blocks: sizes of a kernel's program over the chosen ones: ``rows`` (streams), ``heads``,
        ``chunks`` (of the grid's time axis; on a GPU all of them).

    Returns:
      (o [B, T, H, dv] in the dtype of v, the last state fp32, a Layer where it came as one).

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
    *arrays, state = _prepare(q, k, v, g, beta, state, reset)
    run = functools.partial(_op, implementation=implementation, chunk=chunk, blocks=blocks)
    if not isinstance(state, Layer):
        o, last = run(*arrays, state, None)
    elif arrays[2].shape[-3] == 1:
        o, stack = run(*arrays, *state)
        last = state._replace(stack=stack)
    else:  # a clip's states are few, and its gradient must not keep the whole stack
        o, own = run(*arrays, state.read(), None)
        last = state.write(own)
    return o.astype(v.dtype), last
