"""J and F: the official davis2017-evaluation's numbers, and loops that say what is meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from streamzoo.train.metrics import (
    boundary_accuracy,
    jf,
    region_similarity,
    statistics,
    tracking_length,
)

GOLDEN = Path(__file__).parent / "data" / "davis2017_jf.json"


def sequence(seed: int, frames: int, height: int, width: int, objects: int):
    """(annotation, result) [T, H, W] of ids: ellipses that move, and worse copies of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    found = np.zeros((2, frames, height, width), np.uint8)
    for number in range(1, objects + 1):
        centre = rng.random(2) * [height, width]
        radii = (0.1 + 0.25 * rng.random(2)) * [height, width]
        for t in range(frames):
            centre = centre + rng.normal(size=2) * 2
            for copy in range(2):
                shift = rng.normal(size=2) * 3 * copy
                grow = 1 + 0.3 * copy * (rng.random(2) - 0.5)
                dy, dx = ([y, x] - (centre + shift)[:, None, None]) / (radii * grow)[:, None, None]
                inside = dy**2 + dx**2 < 1
                if copy:  # ragged edges and holes; sometimes nothing at all
                    inside &= rng.random((height, width)) > 0.05
                    inside &= rng.random() > 0.15
                found[copy, t][inside] = number
    return found


def made(case):
    return sequence(*(case[k] for k in ("seed", "frames", "height", "width", "objects")))


def test_the_official_numbers():
    """``data/davis2017_jf.json``: what davis2017-evaluation (commit ac7c43f) gave for the masks of
    :func:`sequence`, object by object and frame by frame."""
    golden = json.loads(GOLDEN.read_text())
    pairs = {}
    for case in golden["cases"]:
        annotation, result = pairs[case["name"]] = made(case)
        for number in range(1, case["objects"] + 1):
            masks = annotation[1:-1] == number, result[1:-1] == number
            want = case["per_frame"][number - 1]
            np.testing.assert_allclose(region_similarity(*masks), want["j"], atol=1e-12)
            np.testing.assert_allclose(boundary_accuracy(*masks), want["f"], atol=1e-12)
    got = jf(pairs)
    want = golden["jf"]
    for name, value in want.items():
        assert math.isclose(getattr(got, name), value, abs_tol=1e-12), name
    assert len(got.per_object) == sum(case["objects"] for case in golden["cases"])


def obvious_f(truth, guess, reach):
    """Outline pixels of either mask within the disc of one of the other's, pixel by pixel."""

    def edge(mask):
        found = []
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                near = [(y + 1, x), (y, x + 1), (y + 1, x + 1)]
                near = [mask[p] for p in near if p[0] < mask.shape[0] and p[1] < mask.shape[1]]
                if any(other != mask[y, x] for other in near):
                    found.append((y, x))
        return found

    def part(points, others):
        close = [any(math.dist(p, q) <= reach for q in others) for p in points]
        return sum(close) / len(close)

    truth, guess = edge(truth), edge(guess)
    if not truth or not guess:
        return float(not truth and not guess)
    precision, recall = part(guess, truth), part(truth, guess)
    return 2 * precision * recall / max(precision + recall, 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_boundary_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.random((2, 9, 12)) < [[[0.1]], [[0.2]]]
    guess[:, : seed % 7] = False
    if seed == 0:
        truth[:] = False
    reach = 1 + seed % 3
    got = boundary_accuracy(truth, guess, tolerance=reach)
    assert math.isclose(float(got), obvious_f(truth, guess, reach), abs_tol=1e-9)


def test_empty_masks_and_void_pixels():
    empty, full = np.zeros((2, 4, 4), bool), np.ones((2, 4, 4), bool)
    square = np.pad(np.ones((2, 2, 2), bool), ((0, 0), (1, 1), (1, 1)))
    for measure in (region_similarity, boundary_accuracy):
        assert measure(empty, empty).tolist() == [1, 1]
        assert measure(square, empty).tolist() == [0, 0] == measure(empty, square).tolist()
        assert measure(square, square).tolist() == [1, 1]
        assert measure(square, full, void=~square).tolist() == [1, 1]
        assert float(measure(square[0], square[0])) == 1
    assert region_similarity(full, square).tolist() == [0.25, 0.25]


def test_statistics():
    got = statistics(np.asarray([1.0, 0.9, 0.5, 0.3, 0.1]))
    assert np.allclose(got, [0.56, 0.4, 0.95 - 0.2])
    one = statistics(np.asarray([0.7]))
    assert np.allclose(one, [0.7, 1.0, 0.0])
    assert np.allclose(statistics(np.asarray([np.nan, 0.8, np.nan]))[:2], [0.8, 1 / 3])


def test_void_and_missing_objects():
    annotation = np.zeros((4, 6, 6), np.uint8)
    annotation[:, 1:3, 1:3], annotation[:, 4:, 4:] = 1, 2
    annotation[:, 0] = 255
    result = np.where(annotation == 1, 1, 0)  # the second object was never found
    got = jf([("a", (annotation, result))])
    assert got.per_object == {"a_1": (1.0, 1.0), "a_2": (0.0, 0.0)} and got.jf == 0.5
    with pytest.raises(ValueError, match="object 3 in the result, 2 in the annotation"):
        jf({"a": (annotation, np.full_like(annotation, 3))})
    with pytest.raises(ValueError, match=r"annotation \(4, 6, 6\) and result \(4, 5, 6\)"):
        jf({"a": (annotation, result[:, :5])})
    with pytest.raises(ValueError, match="ends="):
        jf({"a": (annotation[:2], result[:2])})
    with pytest.raises(ValueError, match="no sequences"):
        jf({})


def test_an_object_that_enters_later_is_not_asked_for():
    """The official ``get_all_masks`` takes the objects of the first frame, ``masks[0].max()``."""
    annotation = np.zeros((5, 6, 6), np.uint8)
    annotation[:, 1:3, 1:3] = 1
    annotation[2:, 4:, 4:] = 2
    alone = np.where(annotation == 1, 1, 0).astype(np.uint8)
    for result in (alone, annotation):
        got = jf({"a": (annotation, result)})
        assert got.per_object == {"a_1": (1.0, 1.0)} and got.jf == 1.0
    with pytest.raises(ValueError, match="object 3 in the result, 2 in the annotation"):
        jf({"a": (annotation, np.full_like(annotation, 3))})
    later = annotation.copy()
    later[0] = 0  # nobody is shown to the tracker
    with pytest.raises(ValueError, match="none with an object in its first frame"):
        jf({"a": (later, later)})


def test_tracking_length():
    j = np.asarray([0.9, 0.8, 0.0, 0.7, 0.0, 0.0, 0.6])
    assert tracking_length(j) == 2
    assert tracking_length(j, patience=2) == 4
    assert tracking_length(j, patience=3) == 7 == len(j)
    assert tracking_length(j, threshold=0.8) == 1
    seen = np.asarray([True, True, False, True, True, False, True])
    assert tracking_length(j, seen) == 4
    assert tracking_length(j, seen, patience=2) == 7
    assert tracking_length(j, seen, patience=2, threshold=0.65) == 4  # frame 5 is left out
    with pytest.raises(ValueError, match="patience 0"):
        tracking_length(j, patience=0)
