"""Maps of depth as lines and as colours."""

import asyncio
from types import SimpleNamespace as Plain
from typing import Any

import numpy as np
import pytest

import streamzoo
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


class Stream(Plain):
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]


def test_every_stream_of_the_dashboard_has_its_own_range():
    pytest.importorskip("starlette")
    from streamzoo.streaming.serve.dashboard import Dashboard

    card = streamzoo.model_card("depth-nano/worlds")
    sessions: Any = Plain(engine=Plain(step=Plain(card=card)), by_name={}, listeners=[], removed=[])
    sessions.refusals = []
    image, ramp = np.zeros((20, 40, 3), np.uint8), np.tile(np.linspace(1, 5, 40), (20, 1))

    async def show():
        dashboard = Dashboard(sessions)
        told = dict(feed=None, recent=Plain(newest={}), stream=Plain())
        streams: Any = [Stream(name=name, **told) for name in "ab"]
        views = []
        for scale, stream in ((1.0, streams[0]), (9.0, streams[1]), (1.0, streams[0])):
            answer: Any = Plain(latency=0.1, frame=image, result=result(scale * ramp))
            dashboard._answered(stream, answer)
            tile = dashboard.tiles[stream]
            views.append(tile.view)
            picture = tile.view.picture(image, answer.result)
            alone = DepthView().picture(image, answer.result)
            np.testing.assert_array_equal(picture, alone)  # nothing of the other stream's range
        assert views[0] is views[2] is not views[1]

    asyncio.run(show())
