"""Persons found by a YOLOX ONNX file: the teacher of the person head.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430): letterboxed BGR input
in 0..255, three anchor-free grids at strides 8, 16 and 32, COCO classes (0 is a person).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from .base import DataError, need
from .video import resize

STRIDES = (8, 16, 32)


class Detector:
    """Callable: RGB frame -> the ``boxes`` best persons.

    Args:
      path: ONNX export without decoding: input [1, 3, S, S], output [1, n, 5 + classes].
      threshold: lowest probability (objectness times class) kept.
      iou: a box that overlaps a better one by more than this is dropped.

    Raises:
      DataError: no such file, or one that is not such an export.
      ImportError: onnxruntime is not installed.
    """

    def __init__(
        self, path: str | Path, *, boxes: int = 8, threshold: float = 0.1, iou: float = 0.5
    ):
        path = need(path, "the person detector", "give the path of a YOLOX ONNX file")
        try:
            import onnxruntime  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(
                "the person detector runs on onnxruntime: pip install 'streamzoo[train]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes, which it does not export
            first = str(error).splitlines()[0][:120]
            raise DataError(f"{path}: not an ONNX model that can be run ({first})") from error
        self.input, self.side = _check(self.session, path)
        self.boxes, self.threshold, self.iou = boxes, threshold, iou
        self.cells, self.stride = _cells(self.side)
        content = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self.identity = (content, boxes, threshold, iou)  # same identity, same answers

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 RGB [H, W, 3] -> boxes [K, 4] x1 y1 x2 y2 in [0, 1] and scores [K], best first;
        empty slots are zeros."""
        height, width = frame.shape[:2]
        ratio = min(self.side / height, self.side / width)
        rows, cols = max(1, round(height * ratio)), max(1, round(width * ratio))
        padded = np.full((self.side, self.side, 3), 114, np.float32)
        padded[:rows, :cols] = resize(frame, (rows, cols))
        image = padded[None, :, :, ::-1].transpose(0, 3, 1, 2)  # BGR, channels first
        outputs = self.session.run(None, {self.input: np.ascontiguousarray(image)})
        raw = np.asarray(outputs[0])[0]
        scores = raw[:, 4] * raw[:, 5]
        kept = scores > self.threshold
        raw, scores, cells, stride = raw[kept], scores[kept], self.cells[kept], self.stride[kept]
        centre = (raw[:, :2] + cells) * stride
        half = np.exp(raw[:, 2:4]) * stride / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        boxes = np.clip(boxes / (ratio * np.asarray([width, height] * 2)), 0.0, 1.0)
        keep = greedy(boxes, scores, self.iou)[: self.boxes]
        out = np.zeros((self.boxes, 4), np.float32), np.zeros(self.boxes, np.float32)
        out[0][: len(keep)], out[1][: len(keep)] = boxes[keep], scores[keep]
        return out


def _check(session, path: Path) -> tuple[str, int]:
    """Input name and side of a YOLOX export; DataError for any other model."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape, given = list(inputs[0].shape), list(outputs[0].shape)
    side = shape[-1]
    fits = len(shape) == 4 and shape[1] == 3 and isinstance(side, int) and side % 32 == 0
    fits = fits and shape[2] == side and len(inputs) == 1
    if fits:
        cells = sum((side // stride) ** 2 for stride in STRIDES)
        fits = len(given) == 3 and given[1] == cells and isinstance(given[2], int) and given[2] > 5
    if not fits:
        raise DataError(
            f"{path}: input {shape} and output {given} are not those of YOLOX "
            "([1, 3, S, S] and [1, n, 5 + classes]); give a YOLOX ONNX file"
        )
    return inputs[0].name, side


def _cells(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of each prediction [n, 2] and its stride [n, 1], as the output has them."""
    cells, strides = [], []
    for stride in STRIDES:
        n = side // stride
        row, column = np.divmod(np.arange(n * n), n)
        cells.append(np.stack([column, row], axis=1))
        strides.append(np.full((n * n, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def greedy(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Indices of boxes [n, 4] that survive greedy non-maximum suppression, best first."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[i], boxes[j]) <= iou for j in kept):
            kept.append(int(i))
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [..., 4], broadcast over leading axes."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    inter = np.prod(np.maximum(high - low, 0.0), axis=-1)
    area = lambda z: np.prod(np.maximum(z[..., 2:] - z[..., :2], 0.0), axis=-1)
    return inter / np.maximum(area(a) + area(b) - inter, 1e-9)
