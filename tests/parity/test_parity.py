"""Every model against its reference: the rows of all ``rows_*.py`` beside this file."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from .golden import draw
from .harness import Row, check, measure

FILES = sorted(Path(__file__).parent.glob("rows_*.py"))
ROWS: list[Row] = [
    row for file in FILES for row in importlib.import_module(f".{file.stem}", __package__).ROWS
]

# one of each family whose layers the others share: seconds each, the rest are minutes
FAST = (
    "clip-b32 transformers CLIPModel",
    "siglip-b16 transformers SiglipModel",
    "dinov2-s14 transformers Dinov2Model",
    "dinov3-s16 transformers DINOv3ViTModel",
)


def test_rows_have_their_own_names():
    keys = [(row.name, row.reference) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_drawn_weights_never_change():
    """Stored answers are worth nothing otherwise."""
    weights = draw({"a.weight": (3, 4), "b.bias": (3,), "b.weight": (2,)}, {"b.b.*": (2.0, 0.5)})
    np.testing.assert_allclose(weights["a.weight"][0, :2], [-0.03455811, -0.01144315], rtol=1e-6)
    np.testing.assert_allclose(weights["b.bias"], [1.8431314, 2.870604, 2.291570], rtol=1e-6)
    np.testing.assert_allclose(weights["b.weight"], [0.886276, 1.0498796], rtol=1e-6)


def case(row):
    name = f"{row.name} {row.reference}"
    return pytest.param(row, id=name, marks=[pytest.mark.slow] * (name not in FAST))


def test_the_fast_rows_are_there():
    assert {*FAST} < {f"{row.name} {row.reference}" for row in ROWS}


@pytest.mark.parametrize("row", [case(row) for row in ROWS])
def test_parity(row, tmp_path):
    pytest.importorskip("torch")
    check(row, measure(row, tmp_path))
