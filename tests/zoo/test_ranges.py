"""Ranges of numbers beside the fields of configs: what they take and what they say."""

import argparse
import dataclasses
import math
from typing import Annotated, Literal

import pytest

from streamzoo.zoo.ranges import Checked, Count, Port, Positive, Range, Share, Size, option, problem


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    steps: Count = 1
    rate: Positive = 1.0
    size: Size = (1, 2)
    port: Port | None = None
    kind: Literal["a", "b"] = "a"
    parts: tuple[Share, ...] = ()
    mesh: Annotated[int, Range(1, also=(-1,), note="-1: the rest")] = -1


@pytest.mark.parametrize(
    "wrong, text",
    [
        (dict(steps=0), "steps=0: steps is at least 1"),
        (dict(steps=1.5), "steps is a whole number"),
        (dict(steps=True), "steps is a whole number"),
        (dict(rate=0), "rate is above 0"),
        (dict(rate=-1e-9), "rate is above 0"),
        (dict(rate=math.nan), "rate is a finite number"),
        (dict(rate=math.inf), "rate is a finite number"),
        (dict(rate="1"), "rate is a number"),
        (dict(size=(4, 0)), "size is at least 1 in each place"),
        (dict(size=(4,)), "size is 2 values"),
        (dict(port=65536), "port is 0 to 65535"),
        (dict(kind="c"), "kind is one of a, b"),
        (dict(parts=(0.5, 1.5)), "parts is 0 to 1 in each place"),
        (dict(mesh=0), "mesh is at least 1 (-1: the rest)"),
        (dict(mesh=-2), "mesh is at least 1 (-1: the rest)"),
    ],
)
def test_a_number_out_of_its_range_is_refused(wrong, text):
    with pytest.raises(ValueError) as error:
        Config(**wrong)
    assert text in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError):
        dataclasses.replace(Config(), **wrong)


def test_what_lies_in_the_range_is_taken():
    config = Config(7, 2, (3, 4), 0, "b", (0, 1, 0.5), 8)  # a whole number is a number too
    assert dataclasses.astuple(config) == (7, 2, (3, 4), 0, "b", (0, 1, 0.5), 8)
    assert Config(port=65535, mesh=-1).port == 65535


def test_bounds_that_are_left_out():
    below = Annotated[float, Range(0, 1, above=True, below=True)]
    assert [bool(problem(x, below)) for x in (0.0, 1e-9, 0.5, 1.0)] == [True, False, False, True]
    assert problem(1.0, below) == "above 0 and below 1"


@pytest.mark.parametrize(
    "hint, text, want",
    [(Count, "0", "at least 1"), (Count, "x", "a whole number"), (Count, "1.5", "a whole number"),
     (Positive, "nan", "finite"), (Port | None, "70000", "0 to 65535"), (Positive, "", "a number")],
)  # fmt: skip
def test_an_option_reads_with_the_same_range(hint, text, want):
    with pytest.raises(argparse.ArgumentTypeError, match=want):
        option(hint)(text)
    assert option(Count)("12") == 12 and option(Positive)("1e-3") == 1e-3
