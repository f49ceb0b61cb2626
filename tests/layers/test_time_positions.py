"""Positions by time: those of Qwen3-Omni, and one moment is one place for ears and eyes."""

from pathlib import Path

import numpy as np
import pytest

from streamzoo.layers.time_positions import (
    Film,
    Frames,
    Sound,
    Words,
    sound_features,
    time_positions,
)

GOLDEN = Path(__file__).parents[3] / "shared/goldens/speech/qwen3_omni_time_aligned_rope.npz"
AUDIO = 103
CASES = {
    "audio_only": [Words(4), Sound(26), Words(4)],
    "video_only": [Words(4), Frames(3, 2, 3, 0.5), Words(4)],
    # theirs puts the marks of picture and of sound before and behind both
    "audio_in_video": [Words(5), Film(Frames(4, 2, 2, 0.5), Sound(26)), Words(5)],
    "image": [Words(4), Frames(1, 2, 2), Words(4)],
}


@pytest.mark.skipif(not GOLDEN.is_file(), reason="shared goldens are not beside the tree")
@pytest.mark.parametrize("case", CASES)
def test_positions_are_those_of_qwen3_omni(case):
    with np.load(GOLDEN) as z:
        want, ids = z[f"{case}/pos"][:, 0], z[f"{case}/ids"][0]
    got, heard = time_positions(CASES[case])
    np.testing.assert_array_equal(got, want)
    # the golden's film lists its pictures before its sound; the places are in their order by time
    sounds = [5 + 4 * (t // 6.5 + 1) + t for t in range(26)] if case == "audio_in_video" else None
    want = np.flatnonzero(ids == AUDIO) if sounds is None else sounds
    np.testing.assert_array_equal(np.flatnonzero(heard), want)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="shared goldens are not beside the tree")
def test_features_of_spectra_are_those_of_qwen3_omni():
    with np.load(GOLDEN) as z:
        told = {int(k.split("/")[1]): int(z[k]) for k in z.files if k.startswith("audio_len/")}
    assert len(told) == 10 and {n: sound_features(n) for n in told} == told


def test_one_moment_is_one_place():
    """Whatever comes before, and however many tokens each has."""
    for seconds in (1 / 13, 0.5, 2 / 13, 0.04):
        film = [Words(3), Film(Frames(9, 2, 1, seconds), Sound(40))]
        places, heard = time_positions(film)
        time = places[0, 3:] - 3
        assert (np.diff(time) >= 0).all()
        pictures, sounds = time[~heard[3:]].reshape(9, 2), time[heard[3:]]
        np.testing.assert_allclose(pictures[:, 0], np.arange(9) * seconds * 13, rtol=1e-6)
        np.testing.assert_array_equal(pictures[:, 0], pictures[:, 1])
        np.testing.assert_array_equal(sounds, np.arange(40))
    # of one moment, pictures first
    places, heard = time_positions([Film(Frames(3, 1, 1, 1 / 13), Sound(3))])
    assert heard.tolist() == [False, True] * 3 and places[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_film_without_times_is_refused():
    with pytest.raises(ValueError, match="a film has times"):
        time_positions([Film(Frames(2, 1, 1), Sound(3))])
