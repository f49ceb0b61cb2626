"""Losses of labels that come without times: CTC and the transducer (RNN-T) with FastEmit.

Both sum over every way to lay U labels on T frames, as a scan over the frames in log space. B
utterances, T frames, U labels at most, V symbols, the blank among them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
NEVER = -1e30  # log of a chance of 0, small enough to be lost and finite, as gradients must be


def ctc_loss(logits: Array, frames: Array, labels: Array, counts: Array, blank: int = 0) -> Array:
    """Connectionist temporal classification: -log P(labels) of each utterance, [B].

    Source: Graves et al., "Connectionist Temporal Classification" (ICML 2006), by optax.

    Args:
      logits: [B, T, V].
      frames: [B] int, how many of the T are the utterance's; the others may hold anything.
      labels: [B, U] int; those from ``counts`` [B] on are not read.
      blank: the symbol that says nothing.

    An utterance too short for its labels (one frame each, and one between equal neighbours) costs
    infinity and has no gradient: it can be counted, and left out by ``jnp.isfinite``.
    """
    here = _within(frames, logits.shape[1])
    named = _within(counts, labels.shape[1])
    logits = jnp.where(here[..., None], logits, 0.0)
    loss = optax.ctc_loss(
        logits, (~here).astype(logits.dtype), labels, (~named).astype(logits.dtype), blank_id=blank
    )
    twice = ((labels[:, 1:] == labels[:, :-1]) & named[:, 1:]).sum(axis=1)
    return jnp.where(frames >= counts + twice, loss, jnp.inf)


def transducer_loss(
    logits: Array,
    frames: Array,
    labels: Array,
    counts: Array,
    blank: int = 0,
    fast_emit: float = 0.0,
) -> Array:
    """The transducer's -log P(labels) of each utterance, [B], times 1 + ``fast_emit``.

    Source: Graves, "Sequence Transduction with Recurrent Neural Networks" (arXiv 1211.3711);
    Yu et al., "FastEmit" (arXiv 2010.11148).

    Args:
      logits: [B, T, U + 1, V], of frame t after u labels.
      frames, counts: [B] int, frames and labels of each utterance; beyond them nothing is read.
      labels: [B, U] int.
      fast_emit: lambda, usually 1e-3 to 1e-2: gradients of emitted labels are 1 + lambda times as
        large and those of the blank as they were, so that words come earlier.

    Raises:
      ValueError: shapes that do not belong together.
    """
    logits = _own(logits, frames, labels, counts)
    return transducer_cost(jax.nn.log_softmax(logits), frames, labels, counts, blank, fast_emit)


def transducer_cost(
    log_probs: Array,
    frames: Array,
    labels: Array,
    counts: Array,
    blank: int = 0,
    fast_emit: float = 0.0,
) -> Array:
    """:func:`transducer_loss` of log-probabilities, which are taken as independent: the gradient
    is that of the lattice alone."""
    log_probs = _own(log_probs, frames, labels, counts)
    silent = log_probs[..., blank]  # [B, T, U + 1]
    rows = jnp.broadcast_to(labels[:, None, :, None], (*log_probs.shape[:2], labels.shape[1], 1))
    said = jnp.take_along_axis(log_probs[:, :, :-1], rows, axis=-1)[..., 0]  # [B, T, U]
    # the same numbers to the bit, with a gradient 1 + lambda times as large
    said = said + fast_emit * (said - jax.lax.stop_gradient(said))
    cost = -_lattice(silent, said, frames, counts)
    return cost + fast_emit * jax.lax.stop_gradient(cost)


def _own(lattice: Array, frames: Array, labels: Array, counts: Array) -> Array:
    """[B, T, U + 1, V] with zeros beyond each utterance: NaN that waits there stays there."""
    if lattice.ndim != 4 or lattice.shape[2] != labels.shape[1] + 1:
        raise ValueError(
            f"a transducer's logits {list(lattice.shape)} should be [B, T, U + 1, V] for labels"
            f" [B, U] of {list(labels.shape)}"
        )
    here = _within(frames, lattice.shape[1])[:, :, None]
    here = here & _within(counts + 1, lattice.shape[2])[:, None]
    return jnp.where(here[..., None], lattice, 0.0)


def _lattice(silent: Array, said: Array, frames: Array, counts: Array) -> Array:
    """log of the sum over all paths. silent [B, T, U + 1], said [B, T, U] -> [B]."""

    def along(start: Array, emit: Array) -> Array:
        """x[u] = log(exp(start[u]) + exp(x[u - 1] + emit[u - 1])), [B, U + 1]."""

        def join(left, right):
            (a, x), (b, y) = left, right
            return a + b, jnp.logaddexp(x + b, y)

        step = jnp.pad(emit, ((0, 0), (1, 0)))  # nothing comes before the first label
        return jax.lax.associative_scan(join, (step, start), axis=1)[1]

    def frame(before, now):
        was, quiet, emit, t = before, *now
        after = along(was, emit)
        last = jnp.take_along_axis(after + quiet, counts[:, None], axis=1)[:, 0]
        # every path ends in the blank of the utterance's last frame
        return after + quiet, jnp.where(t + 1 == frames, last, 0.0)

    batch, steps, width = silent.shape
    start = jnp.full((batch, width), NEVER).at[:, 0].set(0.0)
    rows = (silent.swapaxes(0, 1), said.swapaxes(0, 1), jnp.arange(steps))
    return jax.lax.scan(frame, start, rows)[1].sum(axis=0)


def _within(lengths: Array, size: int) -> Array:
    """[B] -> [B, size], True before the length."""
    return jnp.arange(size) < jnp.asarray(lengths)[:, None]
