"""The row of BlazePose in ``ported``; PYTHONPATH holds mediapipe 0.10.21, unzipped.

Both networks on whole frames: the detector at 224 pixels a side, the landmarks at 256, which in the
stream see the cut-out of a person; `tests/zoo/test_blazepose.py` holds that against MediaPipe's own
graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from streamzoo.zoo.convert import convert_checkpoint
from streamzoo.zoo.pose.blaze.detector import ANCHORS, CLIP, Detector, DetectorConfig
from streamzoo.zoo.pose.blaze.landmarks import LandmarkConfig, LandmarkNet
from tests.zoo.mediapipe_runtime import graph

LANDMARKS = "modules/pose_landmark/pose_landmark_full.tflite"
DETECTOR = "modules/pose_detection/pose_detection.tflite"
PRESENT = 0.5


def runtime(path: Path, pictures: np.ndarray) -> list[np.ndarray]:
    """What the runtime of TensorFlow Lite makes of floats [N, S, S, 3]: its outputs in the file's
    order."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=1)
    run.allocate_tensors()
    (given,) = run.get_input_details()
    found = []
    for picture in pictures:
        run.set_tensor(given["index"], picture[None])
        run.invoke()
        found.append([run.get_tensor(d["index"])[0] for d in run.get_output_details()])
    return [np.stack(one) for one in zip(*found, strict=True)]


def plain(values: np.ndarray, logits: np.ndarray, config: DetectorConfig) -> np.ndarray | None:
    """The surest person's points [4, 2] of one frame's anchors, by loops; None for nobody."""
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -CLIP, CLIP)))
    best = int(scores.argmax())
    if scores[best] <= config.threshold:
        return None
    middles = [
        ((column + 0.5) * stride, (row + 0.5) * stride)
        for stride, anchors in ANCHORS
        for row in range(config.side // stride)
        for column in range(config.side // stride)
        for _ in range(anchors)
    ]

    def box(k: int) -> tuple[float, float, float, float]:
        (x, y), (dx, dy, w, h) = middles[k], values[k, :4].astype(np.float64)
        return x + dx - w / 2, y + dy - h / 2, x + dx + w / 2, y + dy + h / 2

    def iou(a: Any, b: Any) -> float:
        wide = min(a[2], b[2]) - max(a[0], b[0])
        high = min(a[3], b[3]) - max(a[1], b[1])
        inter = max(wide, 0) * max(high, 0)
        area = lambda z: (z[2] - z[0]) * (z[3] - z[1])
        return inter / (area(a) + area(b) - inter)

    total, mean = 0.0, np.zeros((4, 2))
    for k in np.flatnonzero(scores > config.threshold):
        if k == best or iou(box(int(k)), box(best)) > config.iou:
            total += scores[k]
            mean += scores[k] * (values[k, 4:].reshape(4, 2) + middles[k])
    return mean / total


def blazepose(frames: Callable[..., np.ndarray], tfjs: Path | None) -> dict[str, Any] | None:
    """Everything that the two graphs answer; None where they are not there."""
    del tfjs
    paths = graph(LANDMARKS), graph(DETECTOR)
    if paths[0] is None or paths[1] is None:
        return None
    params = convert_checkpoint(paths[0])[1]["params"]
    worst = far = 0.0
    same = count = 0
    config = DetectorConfig()
    video = frames((config.side,) * 2).astype(np.float32) / 127.5 - 1
    net = Detector(config)
    run = jax.jit(lambda v, x: (net.apply(v, x), net.apply(v, x, method="find")))
    values, logits = runtime(paths[1], video)
    for picture, value, logit in zip(video, values, logits[..., 0], strict=True):
        (mine, sure), found = jax.tree.map(
            lambda a: np.asarray(a)[0], run({"params": params["detector"]}, picture[None])
        )
        worst = max(worst, float(np.abs(mine - value).max()), float(np.abs(sure - logit).max()))
        want = plain(value, logit, config)
        same += (want is not None) == (found.score > config.threshold)
        if want is not None and found.score > config.threshold:
            count += 1
            far = max(far, float(np.abs(found.points - want).max()))
    net = LandmarkNet(LandmarkConfig())
    video = frames((net.config.side,) * 2).astype(np.float32) / 255
    points, present, mask, heat, world = runtime(paths[0], video)
    run = jax.jit(functools.partial(net.apply, method="init_all"))
    gap = lambda a, b: float(np.abs(np.asarray(a).reshape(b.shape) - b).max())
    for k, picture in enumerate(video):
        said, shown = run({"params": params["landmarks"]}, picture[None])
        parts = (said.world, world[k]), (said.present, present[k]), (said.heat, heat[k])
        worst = max(worst, *(gap(a, b) for a, b in (*parts, (said.points, points[k]))))
        worst = max(worst, gap(shown, mask[k]))
        if present[k, 0] > PRESENT:
            far = max(
                far, gap(np.asarray(said.points)[0, :33, :2], points[k].reshape(39, 5)[:33, :2])
            )
    return dict(
        runtime="LiteRt, XNNPACK, float32", frames=len(video), raw=worst,
        raw_of="of the detector 2,254 anchors' values and logits, of the landmarks points in "
        "pixels, metres, heat maps and mask", same=int(same), found=count, pixels=far,
    )  # fmt: skip
