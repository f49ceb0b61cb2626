"""The table of systems: every test that it names is there, and every mutant is one."""

import re
from pathlib import Path

import pytest

from .bench.kernel_mutant_list import MUTANTS
from .rows import TABLE, mutated, rows, table

ROOT = Path(__file__).parents[1]


def test_all_rows_are_there_and_say_what_they_miss():
    found = rows()
    assert list(found)[:55] == [str(n) for n in range(1, 56)]
    assert [*map(int, found)] == sorted({*map(int, found)})
    for number, row in found.items():
        assert row["name"] and (row["tests"] or row["open"]), number
        assert "mutant" in row or "open" in row or row.get("slow"), number
        assert set(row) <= {"name", "tests", "mutant", "slow", "open"}, number


@pytest.mark.parametrize("number", rows())
def test_what_a_row_names_is_there(number):
    row = rows()[number]
    for test in row["tests"]:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {re.escape(name.split('[')[0])}\(", text, re.M), test
    if "mutant" in row:
        file = row["mutant"]["file"]
        compile(mutated(row), file, "exec")
        assert mutated(row) != (ROOT / file).read_text(encoding="utf-8")


def test_the_table_is_that_of_the_data():
    assert TABLE.read_text(encoding="utf-8") == table(), "run python -m tests.rows"


def test_the_texts_of_the_kernels_mutants_stand_once():
    for mutant in MUTANTS:
        text = (ROOT / "layers" / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.file}"
