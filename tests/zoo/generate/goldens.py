"""The official code's numbers in ../shared, or a reason to skip."""

import json
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[4] / "shared"
FOLDER = SHARED / "goldens/generate"
needs_goldens = pytest.mark.skipif(not FOLDER.is_dir(), reason="goldens of ../shared are not here")


def golden(name):
    """Arrays by name, tensors of the network under "w:...", and "meta"."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays | {"meta": json.loads(bytes(arrays["meta_json"]))}


def weights(arrays):
    """The network's tensors by their own names."""
    return {key[2:]: value for key, value in arrays.items() if key.startswith("w:")}


def channels_last(x):
    """[B, C, T, H, W] -> [B, T, H, W, C]."""
    return np.moveaxis(x, 1, -1)
