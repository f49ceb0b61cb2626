"""Maps of depth as lines and as colours."""

import numpy as np

from streamzoo.streaming import Result
from streamzoo.streaming.views.depth import DepthView, colours
from streamzoo.zoo.depth.outputs import Depth


def result(depth, metric=True, confidence=None):
    depth = np.asarray(depth, np.float32)
    out = Depth(depth, np.asarray(metric), np.asarray(True), confidence)
    return Result(0, 0.0, 1.0, out, task="depth")


def test_a_line_says_near_and_far_in_its_unit():
    ramp = np.linspace(1, 5, 101)[None].repeat(3, 0)
    line = DepthView().fields(result(ramp, confidence=np.float32(0.75)))["depth"]
    assert line == {"unit": "m", "near": 1.08, "median": 3.0, "far": 4.92, "confidence": 0.75}
    line = DepthView().fields(result(ramp, metric=False))["depth"]
    assert line == {"unit": "inverse", "near": 4.92, "median": 3.0, "far": 1.08}


def test_near_is_bright_whatever_the_map_means():
    near_left = np.tile(np.linspace(1, 5, 40), (20, 1))
    image = np.zeros((40, 80, 3), np.uint8)
    for found in (result(near_left), result(near_left[:, ::-1], metric=False)):
        picture = found.draw(image)
        assert picture.shape == image.shape and picture.dtype == np.uint8
        assert picture[:, :8].mean() > 180 and picture[:, -8:].mean() < 30
    brightness = colours(np.linspace(0, 1, 50)[None])[0].astype(float) @ [0.3, 0.59, 0.11]
    assert (np.diff(brightness) > -1e-6).all(), "the nearer, the brighter"


def test_colours_do_not_jump_with_one_frame():
    view, image = DepthView(), np.zeros((20, 40, 3), np.uint8)
    ramp = np.tile(np.linspace(1, 5, 40), (20, 1))
    first = view.picture(image, result(ramp)).astype(int)
    odd = ramp.copy()
    odd[:, :8] = 0.2  # something very near for one frame
    second = view.picture(image, result(odd)).astype(int)
    alone = DepthView().picture(image, result(odd)).astype(int)
    rest = (slice(None), slice(12, None))
    assert abs(second - first)[rest].mean() < 0.5 * abs(alone - first)[rest].mean()


def test_a_flat_or_empty_map_is_painted():
    for depth in (np.full((4, 4), 2.0), np.zeros((4, 4))):
        for metric in (True, False):
            picture = result(depth, metric).draw(np.zeros((8, 8, 3), np.uint8))
            assert picture.shape == (8, 8, 3)
