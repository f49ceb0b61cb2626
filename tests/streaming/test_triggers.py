"""Triggers decide as the authors' codes do, and as their laws say."""

import math

import numpy as np
import pytest

from streamzoo.streaming.triggers import (
    Cascade,
    ChangeTrigger,
    Confidence,
    Gate,
    Interval,
    Quantile,
    SceneChange,
    Speak,
    Speculate,
    Verify,
    confidence,
    valleys,
)
from streamzoo.streaming.triggers.scene_change import brightness
from streamzoo.streaming.triggers.silence import perplexity

from ..language import case, golden, needs_goldens


def run(trigger, signals):
    state, said = trigger.begin(), []
    for signal in signals:
        state, answer = trigger(state, signal)
        said.append(answer)
    return said


@needs_goldens
def test_valleys_of_a_whole_video_are_timechat_onlines():
    z, _ = golden("dtd_trigger")
    assert [2 * (i + 1) for i in valleys(z["ratios"].tolist())] == z["trigger"].tolist()


@needs_goldens
def test_a_caption_that_no_longer_fits_is_said_anew_as_in_livestar():
    z, _ = golden("livestar_sved")
    verify, said = Verify(), [0]
    state = verify.said(z["ppl"][0, 0])
    for frame in range(1, 70):
        state, speaks = verify(state, z["ppl"][frame, said[-1]])
        if speaks:
            said.append(frame)
            state = verify.said(z["ppl"][frame, frame])
    assert said == z["spoke"].tolist()


@needs_goldens
def test_confidence_is_videoauto_r1s():
    z, _ = golden("videoauto_r1_gate")
    for i in range(5):
        own = case(z, f"c{i}")
        x = own["logits"].astype(np.float64)
        logp = x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        logp = logp - x.max(-1, keepdims=True)
        surprise = logp[np.arange(len(x)), own["ids"]].tolist()
        pieces = [chr(n) for n in own["ids"]]
        got = confidence(pieces, surprise)
        if own["confidence"] == -1:
            assert got is None and run(Confidence(0.0), [(pieces, surprise)]) == [True]
        else:
            assert got == pytest.approx(float(own["confidence"]), rel=1e-4)
            assert run(Confidence(0.0), [(pieces, surprise)]) == [False]
            assert run(Confidence(1.01), [(pieces, surprise)]) == [True]


def test_tokens_that_the_box_begins_and_ends_in_count():
    pieces, surprise = ["\\box", "ed{12", "0} is it"], [-9.0, -1.0, -3.0]
    assert confidence(pieces, surprise) == pytest.approx(math.exp(-2.0))


def test_a_gate_opens_once_until_it_was_low():
    gate = Gate(0.8, off=0.4)
    assert run(gate, [0.5, 0.9, 0.7, 0.9, 0.3, 0.8]) == [False, True, False, False, False, True]
    assert run(Gate(0.8), [0.9, 0.7, 0.9]) == [True, False, True]
    assert run(Gate(0.8, pause=2, repeat=True), [0.9] * 5) == [True, False, False, True, False]
    assert run(gate, [math.nan, 0.9]) == [False, True]
    with pytest.raises(ValueError, match="never close"):
        Gate(0.5, off=0.6)
    with pytest.raises(ValueError, match="at least 0"):
        Gate(0.5, pause=-1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_five_markers_know_the_quantile(share):
    values = np.random.default_rng(0).gamma(2.0, size=4000)
    quantile = Quantile(share)
    sketch = quantile.begin()
    assert math.isnan(quantile.value(sketch))
    for value in values:
        sketch = quantile(sketch, float(value))
    assert quantile.value(sketch) == pytest.approx(np.quantile(values, share), rel=0.05)
    assert len(sketch.heights) == 5 and sketch.places[4] == 4000


def test_a_cut_fires_and_the_future_does_not():
    rng = np.random.default_rng(1)
    ratios = rng.uniform(0.7, 0.9, 200)
    ratios[[60, 130]] = 0.1
    trigger = ChangeTrigger(0.02, warm=20)
    fired = np.flatnonzero(run(trigger, ratios.tolist()))
    assert {60, 130} <= set(fired.tolist()) and len(fired) < 12
    other = ratios.copy()
    other[100:] = 0.0
    assert run(trigger, other.tolist())[:100] == run(trigger, ratios.tolist())[:100]
    assert not any(run(ChangeTrigger(), [0.0] * 20))  # too early to tell
    assert sum(run(ChangeTrigger(0.5, pause=9), [0.5] * 40)) == 2


def test_silence_has_to_be_likely_enough():
    logits = np.log(np.array([0.5, 0.2, 0.3]))
    assert run(Interval(0, 0.725), [logits]) == [2] and run(Interval(0, 0.4), [logits]) == [0]
    silent = np.linspace(0, 1, 101)
    assert Interval.calibrated(0, silent, 0.3).threshold == pytest.approx(0.3)


def test_a_positive_logit_speaks():
    assert run(Speak(), [-1.0, 0.0, 0.2, 0.3]) == [False, False, True, True]
    assert run(Speak(Gate(0.0, off=-1.0)), [0.2, -0.5, 0.2, -2.0, 0.1]) == [
        True, False, False, False, True,
    ]  # fmt: skip


def test_a_still_scene_is_silent_and_a_change_is_not():
    verify = Verify()
    assert run(verify, [5.0]) == [True]  # nothing was said
    state = verify.said(5.0)
    assert verify(state, 5.1)[1] is False and verify(state, 5.2)[1] is True
    logits = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert perplexity(logits, np.array([0, 0])) == pytest.approx(math.sqrt(8))


def test_a_cascade_looks_where_it_is_worth_it():
    day = np.zeros(86_400)
    day[[7_000, 43_210, 80_000]] = 1.0
    cascade = Cascade(lambda x: float(x), lambda x: "seen", Gate(0.5, off=0.2))
    state, found = cascade.begin(), []
    for at, frame in enumerate(day):
        state, answer = cascade(state, frame)
        found += [at] if answer else []
    assert found == [7_000, 43_210, 80_000] and state.ran / state.looked < 1e-4


def test_an_answer_asked_for_early_is_there_at_the_end():
    tool = Speculate(stable=2)
    state, sent = tool.begin(), []
    for at, query in enumerate(
        ["who", "who is", "who is he", "who is he", "who is she", "who is she"]
    ):
        state, query = tool(state, (query, float(at)))
        sent += [query] if query else []
    out = state[0]
    assert sent == ["who is he", "who is she"] and (out.sent, out.cancelled) == (2, 1)
    assert tool.wait(out, "who is she", 6.0, takes=3.0) == 2.0  # sent at 5
    assert tool.wait(out, "who was she", 6.0, takes=3.0) == 3.0


def camera(seed=0, frames=60, size=(60, 80)):
    """A still scene with the noise of a sensor."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(40, 200, (*size, 3))
    noise = rng.normal(0, 6, (frames, *size, 3))
    return np.clip(scene + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(60, 80), (120, 160)])
def test_frames_on_which_much_changes_are_marked_and_noise_is_not(size):
    marked = lambda frames: [i for i, f in enumerate(frames) if mark(f)]
    frames, mark = camera(size=size), SceneChange()
    assert marked(frames) == []
    frames, mark = camera(size=size), SceneChange()
    frames[30:, : size[0] // 3, : size[1] // 3] = 255  # somebody stands there from now on
    frames[45:] = 255 - frames[45:]  # another shot
    assert marked(frames) == [30, 45]


def test_a_busy_scene_is_marked_no_more_often_than_its_share():
    rng, mark = np.random.default_rng(0), SceneChange(share=0.1)
    shares = rng.uniform(0.1, 0.5, 400)
    still = np.zeros((48, 64, 3), np.uint8)
    count = 0
    for i, share in enumerate(shares):
        frame = still.copy()
        frame[:, : int(64 * share)] = 255 * (i % 2)
        count += mark(frame)
    assert 10 <= count <= 70
    with pytest.raises(ValueError, match="least=0"):
        SceneChange(least=0)


def test_brightness_of_cells_is_their_mean():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    cells = image.reshape(12, 4, 16, 4, 3).mean((1, 3, 4))
    np.testing.assert_allclose(brightness(image), cells, atol=1e-3)
    assert brightness(image[:9, :11]).shape == (9, 11)  # no more cells than pixels
