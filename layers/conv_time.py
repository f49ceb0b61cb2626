"""Dilated convolutions over time with three taps (one frame back, now, one ahead), for streams.

A clip pads ``dilation`` zeros on both sides. A stream keeps the past instead and answers later:
the output for frame s needs frame s + dilation. Several dilations side by side all answer after
the same ``delay``, at least the largest of them, so that their outputs belong together.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .gaps import window_at

Array = jax.Array


def three_taps(history: Array, kernel: Array, dilation: int, steps: int) -> Array:
    """Output i < steps from frames i, i + dilation and i + 2 dilation, and from no other.

    history [B, L, ..., C], kernel [3, C, O] -> [B, steps, ..., O]."""
    cut = [history[:, j * dilation : j * dilation + steps] for j in range(3)]
    a, b, c = (jnp.matmul(x, w.astype(x.dtype)) for x, w in zip(cut, kernel, strict=True))
    return a + b + c


def centred_conv(x: Array, kernel: Array, dilation: int) -> Array:
    """A clip as a whole: x [B, T, ..., C], kernel [3, C, O] -> [B, T, ..., O], zeros around it."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (dilation, dilation)
    return three_taps(jnp.pad(x, pad), kernel, dilation, x.shape[1])


def delayed_conv(
    tail: Array, x: Array, kernel: Array, dilation: int, fresh: Array | None = None
) -> tuple[Array, Array]:
    """The same over a stream: (new tail, the outputs for ``delay`` frames earlier).

    Args:
      tail: [B, delay + dilation, ..., C] the frames before x, zeros before the first.
      x: [B, T, ..., C]; only the first fresh[b] frames of a stream are real (None: all).
      kernel: [3, C, O].
    """
    history = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    y = three_taps(history, kernel, dilation, x.shape[1])
    return keep_last(history, tail, fresh), y


def delay_line(tail: Array, x: Array, fresh: Array | None = None) -> tuple[Array, Array]:
    """x [B, T, ...] as it was as many frames ago as ``tail`` [B, n, ...] holds: (new tail, y)."""
    history = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    return keep_last(history, tail, fresh), history[:, : x.shape[1]]


def keep_last(history: Array, tail: Array, fresh: Array | None) -> Array:
    """The last frames of a history [B, tail + T, ...] of which fresh[b] of T are real."""
    if fresh is None:
        return history[:, history.shape[1] - tail.shape[1] :].astype(tail.dtype)
    return window_at(history, fresh, tail.shape[1]).astype(tail.dtype)
