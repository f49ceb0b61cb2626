"""Losses and masks of language models that watch: what is learned of frames with nothing to say.

Sources: Chen et al., "VideoLLM-online" (arXiv 2406.11816), section 3.2 (LIVE); Yang et al.,
"LiveStar" (arXiv 2511.05299), streaming causal attention masks; RelayS2S (code:
mailong25/relays2s) for the focal loss; Xu et al., "StreamingVLM" (arXiv 2510.09608), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..layers.streaming import Array
from .losses import count

IGNORED = -100


def live_loss(logits: Array, labels: Array, frames: Array, weight: float = 1.0) -> Array:
    """Cross-entropy of words and of silence: behind a frame with nothing to say the label is the
    token of silence.

    Args:
      logits: [B, N, V].
      labels: [B, N] int32 of the token that follows, negative for none.
      frames: [B, N] bool, the places behind which a frame was shown.
      weight: of these.

    Returns:
      a scalar: the sum over the number of labels, whatever their weights.
    """
    there = labels >= 0
    own = jnp.where(there, labels, 0)
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    loss = -jnp.take_along_axis(logp, own[..., None], axis=-1)[..., 0]
    loss = loss * jnp.where(frames, jnp.float32(weight), jnp.float32(1.0)) * there
    return loss.sum() / count(there)


def caption_mask(labels: Array, before: int = 4, after: int = 1) -> tuple[Array, Array]:
    """LiveStar's mask: captions are hidden from what comes later, and their places are used again.

    Args:
      labels: [B, N] int32, of captions' tokens, :data:`IGNORED` elsewhere.
      before, after: tokens in front of and behind a caption that are hidden, too.

    Returns:
      (seen [B, N] bool, places [B, N] int32): a hidden run goes on counting, and what comes behind
      it takes its first place.
    """
    said = labels != IGNORED
    reach = jnp.pad(said, ((0, 0), (after, before)))
    hidden = jnp.zeros_like(said)
    for shift in range(
        before + after + 1
    ):  # place i is hidden by a label in i - after .. i + before
        hidden |= reach[:, shift : shift + said.shape[1]]
    seen = ~hidden
    rank = jnp.cumsum(seen, axis=1, dtype=jnp.int32) - 1
    at = jnp.arange(said.shape[1], dtype=jnp.int32)
    last = jax.lax.cummax(jnp.where(seen, at[None], -1), axis=1)
    return seen, rank + jnp.where(seen, 0, at[None] - last)


def focal_loss(
    logits: Array, targets: Array, alpha: float = 0.25, gamma: float = 2.0, smoothing: float = 0.0
) -> Array:
    """Binary focal loss (Lin et al., arXiv 1708.02002) of logits and targets [B] -> a scalar."""
    t = targets.astype(jnp.float32) * (1 - smoothing) + 0.5 * smoothing
    entropy = jax.nn.softplus(logits) - t * logits
    p = jax.nn.sigmoid(logits)
    sure = jnp.where(t > 0.5, p, 1 - p)
    share = jnp.where(t > 0.5, alpha, 1 - alpha)
    return (share * (1 - sure) ** gamma * entropy).mean()


class Piece(NamedTuple):
    """One second of a training chunk.

    second: of the film.
    words: what is said in it, "" for silence.
    learned: whether it counts in the loss; the overlap with the chunk before was counted there.
    """

    second: int
    words: str
    learned: bool


def overlapped_chunks(
    words: Sequence[str], length: int = 24, overlap: int = 12, silence: str = "..."
) -> Iterator[list[Piece]]:
    """Cuts a film with words by the second into chunks that are trained with full attention.

    Args:
      words: what is said in each second, "" for nothing.
      length, overlap: seconds of a chunk, and how many it has of the one before.
      silence: what is learned where nothing is said.

    Raises:
      ValueError: an overlap that leaves nothing new.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"an overlap of {overlap} s in chunks of {length} s")
    for start in range(0, max(1, len(words) - overlap), length - overlap):
        last = min(len(words), start + length)
        yield [
            Piece(at, words[at] or silence, start == 0 or at >= start + overlap)
            for at in range(start, last)
        ]
