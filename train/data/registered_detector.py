"""A YOLOX of the zoo by its name, such as the bundled ``yolox-nano/coco``, as the box teacher: what
:class:`~.yolox.Detector` does with an ONNX file, without onnxruntime."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ... import zoo
from ...layers.streaming import Params
from ...zoo.detect import YOLOX
from ...zoo.trees import flatten
from .base import DataError
from .kept import code, digest
from .yolox import Detector, _cells


class RegisteredDetector(Detector):
    """Callable as its base.

    Args:
      name: a registered YOLOX with weights, or a file of one.

    Raises:
      DataError: a model of another kind. The zoo's errors: no such name, or no weights.
    """

    def __init__(self, name: str, *, boxes: int = 8, threshold: float = 0.1, iou: float = 0.5):
        model, variables = zoo.load(name)
        if not isinstance(model, YOLOX):
            raise DataError(f"the person detector {name} is no YOLOX: such as yolox-nano/coco")
        self.session, self.input = _Network(model, variables), "frames"
        self.side = model.config.image_size[0]
        self.boxes, self.threshold, self.iou = boxes, threshold, iou
        self.cells, self.stride = _cells(self.side)
        flat = flatten(variables)
        weights = digest(*(part for n in sorted(flat) for part in (n, np.asarray(flat[n]))))
        self.identity = (weights + code("zoo/detect"), boxes, threshold, iou)


class _Network:
    """The network in the form of an ONNX session: BGR [1, 3, S, S] -> [1, cells, 5 + classes]."""

    def __init__(self, model: Any, variables: Params):
        self.variables = variables
        self.apply = jax.jit(lambda v, x: model.apply(v, x, method="raw"))

    def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        (image,) = given.values()
        rgb = image.transpose(0, 2, 3, 1)[..., ::-1]
        return [np.asarray(self.apply(self.variables, rgb))]
