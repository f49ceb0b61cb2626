"""Overlapping chunks of a long video: at a random frame of the overlap the later one takes over.

StreamingT2V's randomized blending (arXiv 2403.14773, 3.3; Picsart-AI-Research/StreamingT2V,
code/i2v_enhance/pipeline_i2vgen_xl.py, at commit 411f00d). The frame is drawn for every chunk and
every denoising step, so no seam stays at one place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..streaming import Array


def blended_length(chunks: int, size: int, overlap: int) -> int:
    """Frames of ``chunks`` that overlap."""
    return chunks * size - (chunks - 1) * overlap


def cut(x: Array, size: int, overlap: int) -> Array:
    """A video [B, L, ...] -> its chunks [B, n, size, ...].

    Raises:
      ValueError: chunks of this size and overlap do not cover L frames.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"an overlap of {overlap} is not below a chunk's {size} frames")
    frames = x.shape[1]
    chunks = 1 + (frames - size) // (size - overlap)
    if chunks < 1 or blended_length(chunks, size, overlap) != frames:
        raise ValueError(f"chunks of {size} with {overlap} shared do not cover {frames} frames")
    start = jnp.arange(chunks)[:, None] * (size - overlap)
    return x[:, start + jnp.arange(size)[None]]


def draw_offsets(key: Array, chunks: int, overlap: int) -> Array:
    """int32 [chunks]: from which of its frames on a chunk is taken; 0 for the first."""
    drawn = jax.random.randint(key, (chunks,), 0, max(overlap, 1))
    return drawn.at[0].set(0)


def blend(chunks: Array, overlap: int, offsets: Array) -> Array:
    """Chunks [B, n, size, ...] and offsets [n] -> a video [B, L, ...], each frame of one chunk."""
    count, size = chunks.shape[1:3]
    frame = jnp.arange(blended_length(count, size, overlap))
    start = jnp.arange(count) * (size - overlap)
    # the last chunk that has begun at a frame has it
    owner = (frame[:, None] >= (start + offsets)[None]).sum(axis=1) - 1
    return chunks[:, owner, frame - start[owner]]
