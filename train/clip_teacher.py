"""A published classifier of clips as a teacher of frames: what it says is about the whole frame.

Its answers go to slot 0 of the boxes, where data with one label per video, and folders, have the
whole frame; it has nothing to say about the persons in the other slots.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..layers.streaming import Carry, Params
from ..zoo.action import ActionOutput, SlidingWindow
from . import checks

Array = jax.Array


class ClipTeacher:
    """A :class:`SlidingWindow` with a head per clip, in the form of one with a head per box.

    ``box_logits`` [B, n, K, C] and the tap ``roi`` [B, n, K, D] (the mean over all tokens, which
    that head reads) are the clip's in slot 0 and zeros in the others.
    """

    def __init__(self, window: SlidingWindow):
        self.window, self.config, self.latency = window, window.config, window.latency
        self._ring, self.init_carry = window._ring, window.init_carry

    def apply(
        self,
        variables: Params,
        carry: Carry,
        frames: Array,
        valid: Array | None = None,
        *,
        boxes: Array,
        box_valid: Array | None = None,
        taps: tuple[str, ...] = (),
        at: Array | None = None,
    ) -> tuple[Any, ActionOutput]:
        """As ``SlidingWindow``; boxes [B, T, K, 4] for their number alone."""
        inner = tuple("features" if name == "roi" else name for name in taps)
        given: Any = self.window.apply(variables, carry, frames, valid, taps=inner, at=at)
        carry, out = given
        first = (jnp.arange(boxes.shape[2]) == 0)[:, None]
        found = dict(out.taps or {})
        if "roi" in taps:
            pooled = found.pop("features").mean(axis=(2, 3, 4))
            found["roi"] = jnp.where(first, pooled[:, :, None], 0.0)
        logits = jnp.where(first, out.logits[:, :, None], 0.0)
        return carry, out.replace(box_logits=logits, taps=found or None)


def streaming(model: Any, lookahead: int, name: str) -> SlidingWindow | ClipTeacher:
    """A sliding window, or an offline VideoMAE as one. Raises DataError for a model that is
    neither, or has no classifier."""
    config = checks.as_window(model.config, name, lookahead)
    window: Any = SlidingWindow(config)
    return ClipTeacher(window) if config.head == "frame" else window
