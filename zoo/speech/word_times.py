"""When each token of a text was said: by where the decoder looked when it wrote it.

The idea is that of Whisper's word time stamps (openai/whisper, timing.py): cross attention of some
heads goes along the audio as the text goes on. There the heads are listed for each model; here
those are taken in which the best path from left to right has most of the weight.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Array, Params

HEADS = 6  # that are followed


@functools.partial(jax.jit, static_argnames="model")
def looks(model: Any, params: Params, features: Array, seen: Array, tokens: Array) -> Array:
    """How much each place of tokens [1, N], what a text begins with first, sees of each of the
    features [1, F, D], those that are ``seen`` [1, F]: [heads, N, F]."""
    memory = model.apply(params, features, seen, tokens.shape[1], method="begin")
    found = model.apply(params, memory, tokens, method="look")[:, 0]
    return found.reshape(-1, *found.shape[2:])


def monotone(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best way along features, one token after the other and at least one feature each.

    scores: [..., N, F], N <= F. Returns (the first feature of each token [..., N], the mean score
    on the way [...]).

    Raises:
      ValueError: more tokens than features.
    """
    *lead, tokens, frames = scores.shape
    if tokens > frames:
        raise ValueError(f"{tokens} tokens have no way along {frames} features")
    best = np.full((*lead, tokens), -np.inf)
    best[..., 0] = scores[..., 0, 0]
    moved = np.zeros((frames, *lead, tokens), bool)
    for frame in range(1, frames):
        before = np.concatenate([np.full((*lead, 1), -np.inf), best[..., :-1]], axis=-1)
        moved[frame] = before > best
        best = np.maximum(before, best) + scores[..., frame]
    token, first = np.full(lead, tokens - 1), np.zeros((*lead, tokens), int)
    for frame in range(frames - 1, 0, -1):
        here = np.take_along_axis(moved[frame], token[..., None], axis=-1)[..., 0]
        at = np.where(here, frame, np.take_along_axis(first, token[..., None], axis=-1)[..., 0])
        np.put_along_axis(first, token[..., None], at[..., None], axis=-1)
        token = token - here
    return first, best[..., -1] / frames


def token_starts(weights: np.ndarray, heads: int = HEADS) -> np.ndarray:
    """weights [H, N, F], how much the place before each token sees of each feature -> the feature
    at which each token begins, [N]; they never go back.

    More tokens than features: they are spread evenly.
    """
    _, tokens, frames = weights.shape
    if tokens > frames:
        return np.arange(tokens) * frames // tokens
    # a feature that all tokens look at says nothing of any of them
    apart = weights - weights.mean(axis=1, keepdims=True)
    apart /= weights.std(axis=1, keepdims=True) + 1e-6
    along = monotone(weights)[1]
    chosen = np.argsort(-along, kind="stable")[:heads]
    return monotone(smooth(apart[chosen]).mean(axis=0))[0]


def smooth(x: np.ndarray, width: int = 5) -> np.ndarray:
    """The median of ``width`` neighbours along the last axis."""
    sides = [(0, 0)] * (x.ndim - 1) + [(width // 2, width // 2)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, sides, "edge"), width, axis=-1)
    return np.median(windows, axis=-1)


def spans(
    model: Any, params: Params, features: np.ndarray, count: int, tokens: Sequence[int],
    prompt: Sequence[int], room: int,
) -> np.ndarray:  # fmt: skip
    """[N, 2] features, the first of each token and the one behind its last.

    features: [1, F, D], of which the first ``count`` are there. prompt: what the text begins with.
    room: tokens that a program is compiled for.
    """
    told = np.zeros((1, room), np.int32)
    told[0, : len(prompt) + len(tokens)] = (*prompt, *tokens)
    seen = np.arange(features.shape[1])[None] < count
    found = np.asarray(looks(model, params, features, jnp.asarray(seen), told))
    first = len(prompt) - 1  # the place before a token writes it
    starts = token_starts(found[:, first : first + len(tokens), :count])
    return np.stack([starts, np.append(starts[1:], count)], axis=1)
