"""The networks of the package ``mediapipe`` 0.10.21 in the runtime of TensorFlow Lite."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

GRAPH = "modules/palm_detection/palm_detection_lite.tflite"


def graph(name: str = GRAPH) -> Path | None:
    """A network of the package ``mediapipe``, where that is on the path."""
    found = importlib.util.find_spec("mediapipe")
    for folder in (found and found.submodule_search_locations) or ():
        if (path := Path(folder) / name).is_file():
            return path
    return None


def published(path: Path, pictures: np.ndarray) -> list[np.ndarray]:
    """What the runtime of TensorFlow Lite makes of uint8 pictures [N, H, W, 3]: all outputs, by
    the number of the tensor."""
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(str(path), num_threads=1)
    runtime.allocate_tensors()
    (given,) = runtime.get_input_details()
    outputs = sorted(runtime.get_output_details(), key=lambda d: d["name"])
    found = []
    for picture in pictures:
        runtime.set_tensor(given["index"], (picture[None] / 255).astype(np.float32))
        runtime.invoke()
        found.append([runtime.get_tensor(d["index"])[0] for d in outputs])
    return [np.stack(one) for one in zip(*found, strict=True)]
