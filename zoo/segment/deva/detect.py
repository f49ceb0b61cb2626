"""A detector of single frames and DEVA's propagation, each by itself: an object is found now and
then and carried on in between.

    follow = DetectPropagate(model, variables, detect, period=5, votes=3)
    for frame in frames:                       # [H, W, 3], normalised, of the model's size
        found = follow(frame)                  # ids [S] and masks [S, H, W]

Every ``period`` frames the detections of the last ``votes`` frames are laid onto the present one
and agree (:mod:`.consensus`). The authors' semi-online setting looks as many frames ahead instead.

Source: Cheng et al., DEVA (arXiv 2309.03903), section 3.2; hkchengrex/Tracking-Anything-with-DEVA,
``inference_core.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ....layers.streaming import Params
from ..stream import no_prompts
from .consensus import Segments, consensus, merged
from .model import Deva

Detect = Callable[[np.ndarray], Segments]


class Found(NamedTuple):
    """ids [S] int, masks [S, H, W] bool that do not overlap, kinds [S] int."""

    ids: np.ndarray
    masks: np.ndarray
    kinds: np.ndarray


class DetectPropagate:
    """One stream.

    Attributes:
      detect: frame [H, W, 3] -> :class:`Segments`; asked on the frames that vote alone.
      period: frames from one look of the detector to the next.
      votes: frames that vote, the present one and those before it; ``period`` at most.
      missed: looks in a row that may not find an object before it is forgotten.
      union: a found object has what was carried on and what is detected; else the latter.

    Raises:
      ValueError: more votes than frames in a period, or none.
    """

    def __init__(
        self, model: Deva, variables: Params, detect: Detect, period: int = 5, votes: int = 1,
        missed: int = 5, union: bool = True,
    ):  # fmt: skip
        if not 1 <= votes <= period or missed < 0:
            raise ValueError(
                f"period {period}, votes {votes}, missed {missed}: 1 to {period} frames vote"
            )
        self.detect, self.period, self.votes = detect, period, votes
        self.missed, self.union = missed, union
        self._config = model.config
        self._variables = variables
        self._carry = model.init_carry(1)
        apply = lambda method: jax.jit(lambda *given: model.apply(*given, method=method))
        self._step = jax.jit(lambda *given: model.apply(*given, taps=("probabilities",)))
        self._look, self._align = apply("look"), apply("align")
        self._votes: deque[tuple[np.ndarray, Segments]] = deque(maxlen=votes)
        self._ids = np.full(model.config.objects, -1)
        self._kinds = np.zeros(model.config.objects, int)
        self._unseen = np.zeros(model.config.objects, int)
        self._frame = self._next = 0

    def __call__(self, frame: np.ndarray) -> Found:
        """The objects of the next frame."""
        ahead = -self._frame % self.period  # frames until the next look
        if ahead < self.votes:
            self._votes.append((frame, self.detect(frame)))
        prompts = None if ahead else self._agreed(frame)
        c = self._config
        if prompts is None:
            prompts = no_prompts(1, 1, c.objects, c.points, c.image_size)
        self._carry, out = self._step(
            self._variables, self._carry, frame[None, None], None, prompts
        )
        assert out.taps is not None
        which = np.asarray(out.taps["probabilities"])[0, 0].argmax(0)
        slots = np.flatnonzero(self._ids >= 0)
        self._frame += 1
        masks = which[None] == 1 + slots[:, None, None]
        return Found(self._ids[slots], masks, self._kinds[slots])

    def _agreed(self, frame: np.ndarray):
        """Prompts of what is detected, tracked, or both."""
        c = self._config
        laid = [
            told if seen is frame else self._laid(seen, told, frame) for seen, told in self._votes
        ]
        agreed = consensus(laid) if len(laid) > 1 else laid[0]
        segments = Segments(agreed.masks, agreed.kinds)
        slots = np.flatnonzero(self._ids >= 0)
        self._carry, prob = self._look(self._variables, self._carry, frame[None])
        which = np.asarray(prob)[0].argmax(0)
        tracked = which[None] == 1 + slots[:, None, None]
        free = np.flatnonzero(self._ids < 0)
        told = merged(tracked, self._kinds[slots], segments, self.union)
        if len(told.new) > len(free):  # as the authors: where not all find room, none does
            known = np.setdiff1d(np.arange(len(segments.kinds)), told.new)
            segments = Segments(segments.masks[known], segments.kinds[known])
            told = merged(tracked, self._kinds[slots], segments, self.union)
        self._unseen[slots] = np.where(told.found, 0, self._unseen[slots] + 1)
        gone = slots[self._unseen[slots] > self.missed]
        prompts = no_prompts(1, 1, c.objects, c.points, c.image_size)
        fresh = free[: len(told.new)]
        for slot, mask in zip((*slots, *fresh), told.masks, strict=True):
            np.asarray(prompts.masks)[0, 0, slot] = mask
            np.asarray(prompts.masked)[0, 0, slot] = slot not in gone
        np.asarray(prompts.remove)[0, 0, gone] = True
        self._ids[gone] = -1
        self._ids[fresh] = self._next + np.arange(len(fresh))
        self._kinds[fresh], self._unseen[fresh] = segments.kinds[told.new], 0
        self._next += len(fresh)
        return prompts

    def _laid(self, seen: np.ndarray, told: Segments, frame: np.ndarray) -> Segments:
        """Segments of an earlier frame as they lie in ``frame``, ``objects`` of them at a time."""
        size, out = self._config.objects, []
        for start in range(0, len(told.masks), size):
            some = told.masks[start : start + size]
            masks = np.zeros((1, size, *some.shape[1:]), np.float32)
            masks[0, : len(some)] = some
            there = np.arange(size)[None] < len(some)
            prob = self._align(self._variables, seen[None], masks, there, frame[None])
            which = np.asarray(prob)[0].argmax(0)
            out.append(which[None] == 1 + np.arange(len(some))[:, None, None])
        return told._replace(masks=np.concatenate(out)) if out else told
