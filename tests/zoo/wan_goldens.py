"""The goldens of the generation family, and tiny Wans with their weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[3] / "shared/goldens/generate"
needs_goldens = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the goldens of ../shared are not here"
)
TELLS = {"num_heads": 2}


@functools.cache
def golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, weights by their official names, what the file tells of itself)."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {k: file[k] for k in file.files if not k.startswith("w:")}
        weights = {k[2:]: file[k] for k in file.files if k.startswith("w:")}
    return arrays, weights, json.loads(bytes(arrays.pop("meta_json")))


def network(weights: dict[str, np.ndarray], **tells):
    """(module, variables) of a checkpoint, through the converter."""
    from streamzoo.zoo import create_model
    from streamzoo.zoo.convert import convert, detect_converter
    from streamzoo.zoo.weights import shapes_of

    config = {**TELLS, **tells}
    plan = detect_converter(weights, config).plan(weights, config)
    ready = plan.prepare(weights) if plan.prepare else weights
    template = shapes_of(plan.model, **plan.overrides)
    variables = convert(ready, plan.rules, ignore=plan.ignore, template=template)
    # of pictures a checkpoint says nothing
    return create_model(plan.model, **plan.overrides, image_size=(4, 4)), variables


def last(x: np.ndarray) -> np.ndarray:
    """[..., C, h, w] -> [..., h, w, C]."""
    return np.moveaxis(x, -3, -1)


def clip(x: np.ndarray) -> np.ndarray:
    """[B, C, F, h, w] -> [B, F, h, w, C]."""
    return np.moveaxis(x, 1, -1)
