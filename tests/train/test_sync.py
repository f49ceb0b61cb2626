"""Sound and picture apart: against NumPy's correlation, and on real clips that are shifted."""

from pathlib import Path

import numpy as np
import pytest

from streamzoo.streaming.sources import open_source
from streamzoo.streaming.sources.sound import RATE, sound_of
from streamzoo.train.metrics import loudness, motion, sync_offset

GRID = Path(__file__).parents[3] / "shared/data/speech/grid_av"


@pytest.mark.parametrize("late", [-7, 0, 4])
def test_a_shift_is_found_and_its_score_is_numpys(late):
    rng = np.random.default_rng(late + 7)
    moved = rng.random(120)
    loud = np.roll(moved, late) + 0.1 * rng.random(120)
    found = sync_offset(loud, moved, fps=20)
    assert found.offset == late / 20
    a, b = (loud[late:], moved[: 120 - late]) if late >= 0 else (loud[:late], moved[-late:])
    assert found.score == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_what_has_nothing_to_do_with_each_other_scores_low():
    rng = np.random.default_rng(0)
    assert abs(sync_offset(rng.random(3000), rng.random(3000), fps=25).score) < 0.1
    assert sync_offset(np.zeros(100), rng.random(100), fps=25).score == 0


def test_loudness_and_motion_are_of_their_frames():
    sound = np.concatenate([np.full(640, 0.5), np.zeros(640), np.full(640, -1.0)])
    np.testing.assert_allclose(loudness(sound, 16_000, 25, 4), [0.5, 0, 1, 0])
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1:] = 200
    np.testing.assert_array_equal(motion(frames), [0, 200, 0])


def test_bad_input_says_what_would_do():
    ones = np.ones(30)
    with pytest.raises(ValueError, match="one number per frame of both"):
        sync_offset(ones, np.ones(29), 25)
    with pytest.raises(ValueError, match="at least 52"):
        sync_offset(ones, ones, 25)
    with pytest.raises(ValueError, match="none"):
        sync_offset(np.full(60, np.nan), np.ones(60), 25)


@pytest.mark.skipif(not GRID.is_dir(), reason="shared speech is not beside the tree")
def test_real_speakers_move_as_they_speak_and_a_shift_of_the_sound_is_seen():
    found, fps = [], 25.0  # of all of GRID
    for path in sorted(GRID.glob("*.mpg"))[:4]:
        with open_source(path) as source:
            frames = np.stack([frame.image for frame in source])
            assert source.fps == fps
        sound = np.concatenate([*sound_of(path, say=lambda _: None)])
        moved = motion(frames[:, frames.shape[1] // 2 :])  # the mouth is in the lower half
        for late in (0, 10):
            quiet = np.zeros(round(late * RATE / fps), np.float32)
            loud = loudness(np.concatenate([quiet, sound]), RATE, fps, len(frames))
            found.append(sync_offset(loud, moved, fps, reach=0.8).offset)
    apart = np.subtract(found[1::2], found[::2])
    print(found)
    assert np.median(np.abs(apart - 10 / fps)) <= 1 / fps and np.median(np.abs(found[::2])) <= 0.2
