"""Answers of references that are not installed everywhere, stored once: weights from a seed.

A ``golden_*.py`` beside this file runs its reference with weights of :func:`draw` and stores the
shapes of those weights and what the reference answers. The parity row draws the weights again.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
GAIN = 1.2  # of matrices, over 1 / sqrt(fan in)

Shapes = Mapping[str, Sequence[int]]
Special = Mapping[str, tuple[float, float]]


def draw(shapes: Shapes, special: Special) -> dict[str, np.ndarray]:
    """Lively weights, the same everywhere: each depends on its name and shape alone.

    Matrices keep the size of what goes through them; gains are about 1, biases about 0.
    ``special``: regex of a whole name -> (mean, standard deviation), the first that fits counts.
    """
    weights = {}
    for name, shape in shapes.items():
        # the legacy generator: its numbers are promised never to change
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        fits = [how for pattern, how in special.items() if re.fullmatch(pattern, name)]
        if fits:
            mean, spread = fits[0]
        elif len(shape) > 1:
            mean, spread = 0.0, GAIN / np.prod(shape[1:]) ** 0.5
        else:
            mean, spread = float(name.endswith("weight")), 0.2
        weights[name] = np.asarray(mean + spread * noise, np.float32)
    return weights


def fill(model: Any, special: Special, suffixes: tuple[str, ...] = ()) -> dict[str, list[int]]:
    """Gives a torch module the weights of :func:`draw`; returns their shapes.

    ``suffixes``: of names that are left as they are and not stored.
    """
    import torch

    state = {k: v for k, v in model.state_dict().items() if not k.endswith(suffixes or ("\0",))}
    shapes = {name: list(value.shape) for name, value in state.items()}
    drawn = {name: torch.from_numpy(w) for name, w in draw(shapes, special).items()}
    model.load_state_dict(drawn, strict=False)
    return shapes


def write(name: str, shapes: Shapes, answers: Mapping[str, Any]) -> None:
    """``data/NAME.npz``: the weights' shapes and the reference's answers in fp32."""
    path = DATA / f"{name}.npz"
    arrays: dict[str, Any] = {k: np.asarray(v, np.float32) for k, v in answers.items()}
    np.savez_compressed(path, shapes=np.asarray(json.dumps(shapes)), **arrays)
    print(path, path.stat().st_size, "bytes")


def read(name: str) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """(the weights' shapes, the reference's answers) of ``data/NAME.npz``."""
    with np.load(DATA / f"{name}.npz") as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("shapes"))), arrays
