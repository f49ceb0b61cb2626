"""Every model against its reference: the rows of all ``rows_*.py`` beside this file."""

import importlib
from pathlib import Path

import pytest

from .harness import Row, check, measure

FILES = sorted(Path(__file__).parent.glob("rows_*.py"))
ROWS: list[Row] = [
    row for file in FILES for row in importlib.import_module(f".{file.stem}", __package__).ROWS
]


def test_rows_have_their_own_names():
    keys = [(row.name, row.reference) for row in ROWS]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[f"{row.name} {row.reference}" for row in ROWS])
def test_parity(row, tmp_path):
    pytest.importorskip("torch")
    check(row, measure(row, tmp_path))
