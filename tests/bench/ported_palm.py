"""The row of the palm detector in ``ported``; PYTHONPATH holds mediapipe 0.10.21, unzipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import streamzoo
from streamzoo.zoo.pose.palm.model import PalmConfig, PalmNet
from tests.zoo.mediapipe_runtime import graph, published
from tests.zoo.test_palm import plain

SIDE = (192, 192)
SIGNS = ("again", "book", "brother", "eat", "help", "learn", "milk", "no", "please", "want")
GESTURES = ("caret_1", "x_10", "star_11", "left_13", "circle_16", "check_2", "up_21", "square_1")
CLIPS = {f"asl_gestures/{name}.mkv": (3, 25) for name in SIGNS}
CLIPS |= {f"../egogestar/clips/{name}.mp4": (3, 7) for name in GESTURES}
COUNT = 50


def palm(frames: Callable[..., np.ndarray], tfjs: Path | None) -> dict[str, Any] | None:
    """Values and logits of all anchors, and the palms that a plain walk over them finds; None
    where the published network is not there."""
    del tfjs
    path = graph()
    if path is None:
        return None
    video = frames(SIDE, CLIPS)[:COUNT]
    values, logits = published(path, video)
    _, params = streamzoo.load("palm-lite/mediapipe")
    net = PalmNet(PalmConfig())
    run = jax.jit(lambda v, x: (net.apply(v, x), net.apply(v, x, method="find")))
    worst = far = 0.0
    same = count = 0
    for picture, value, logit in zip(video, values, logits[..., 0], strict=True):
        (mine, sure), found = jax.tree.map(
            lambda a: np.asarray(a)[0], run(params, picture[None].astype(np.float32) / 255)
        )
        worst = max(worst, float(np.abs(mine - value).max()), float(np.abs(sure - logit).max()))
        want = plain(value, logit)
        count += len(want)
        if int(found.valid.sum()) != len(want):
            continue
        same += 1
        for k, (_, every) in enumerate(want):
            far = max(far, float(np.abs(found.keypoints[k, :, :2] * 192 - every[2:]).max()))
    return dict(
        runtime="LiteRt, XNNPACK, float32", frames=len(video), raw=worst,
        raw_of="boxes and points in pixels, logits of all 2016 anchors", same=same, found=count,
        pixels=far,
    )  # fmt: skip
