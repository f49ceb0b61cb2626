"""The official code's numbers in ../shared, or a reason to skip."""

import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[4] / "shared/goldens/generate"
needs_goldens = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the goldens of ../shared are not here"
)


def golden(name):
    """Arrays by name, tensors of the network under "w:...", and "meta"."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays | {"meta": json.loads(bytes(arrays["meta_json"]))}
