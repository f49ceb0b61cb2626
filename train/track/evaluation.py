"""Runs a tracker over sequences, frame by frame, for its masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ...layers.streaming import Carry, Params
from ...zoo.registry import Card
from ...zoo.segment.outputs import resize_logits
from ...zoo.segment.stream import Prompts, no_prompts
from ..data.davis import Davis, MaskClip
from ..tasks import prepared
from .prompts import inner_point

Array = jax.Array


def sequence_masks(
    model: Any, variables: Params, card: Card, source: Davis, native: Davis, prompt: str = "mask"
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """(sequence, (annotation, result)), both [T, H, W] of 0 and 1, frame by frame through the
    carry. The first frame's ``prompt`` is its "mask" or a "point" inside it.

    source: at the tracker's size. native: the same sequences in the size in which masks count.
    """
    config = model.config

    @jax.jit
    def step(carry: Carry, frame: Array, prompts: Prompts) -> Any:
        return model.apply(variables, carry, prepared(frame[None, None], card), None, prompts)

    for video, name in enumerate(source.videos):
        clip, truth = source.read(video), native.read(video).masks > 0
        to_size = jax.jit(lambda x, size=truth.shape[1:]: resize_logits(x, size=size) > 0)
        carry, found = model.init_carry(1), []
        for index, frame in enumerate(clip.frames):
            given = _given(config, clip, prompt) if index == 0 else _nothing(config)
            carry, out = step(carry, frame, given)
            found.append(np.asarray(to_size(out.masks[0, 0]))[0])
        yield name, (truth.astype(np.uint8), np.stack(found).astype(np.uint8))


def _nothing(config: Any) -> Prompts:
    return no_prompts(1, 1, config.objects, config.points, config.image_size)


def _given(config: Any, clip: MaskClip, prompt: str) -> Prompts:
    prompts, mask = _nothing(config), clip.masks[0] > 0
    if prompt == "mask":
        np.asarray(prompts.masks)[0, 0, 0] = mask
        np.asarray(prompts.masked)[0, 0, 0] = True
    else:
        np.asarray(prompts.points)[0, 0, 0, 0] = inner_point(mask)
        np.asarray(prompts.labels)[0, 0, 0, 0] = 1
        np.asarray(prompts.pointed)[0, 0, 0] = True
    return prompts
