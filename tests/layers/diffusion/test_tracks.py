"""Motion tracks as channels: where each is, what it is called, and who is not seen."""

import numpy as np
import pytest

from streamzoo.layers.diffusion import track_channels

POINTS = np.array([[[[9.0, 3.0], [30.0, 17.0], [31.9, 23.9]], [[9, 3], [-1, 5], [5, 24]]]], float)
VISIBLE = np.array([[[True, True, True], [False, True, True]]])
NUMBERS = np.array([[3, 41, 7]], np.int32)


def by_hand(number, width=4):
    angle = number * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angle), np.cos(angle)])


def test_a_track_is_in_its_cell_by_its_number_and_tracks_in_one_add_up():
    """Pictures of 32 x 24 in cells of 8: 3 rows of 4. In the second frame one track is hidden, one
    is left of the picture, one below it."""
    got = np.asarray(track_channels(POINTS, VISIBLE, NUMBERS, (3, 4), 4, 8))
    want = np.zeros((1, 2, 3, 4, 4))
    want[0, 0, 0, 1] = by_hand(3)
    want[0, 0, 2, 3] = by_hand(41) + by_hand(7)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got.dtype == np.float32


def test_numbers_tell_tracks_apart_and_widths_are_even():
    many = np.arange(200, dtype=np.int32)[None]
    names = np.asarray(
        track_channels(np.zeros((1, 1, 200, 2)) + 8 * np.arange(200)[:, None] * [1, 0],
                       np.ones((1, 1, 200), bool), many, (1, 200), 16, 8)
    )[0, 0, 0]  # fmt: skip
    apart = np.abs(names[:, None] - names[None]).sum(-1) + np.eye(200)
    assert apart.min() > 0.05
    with pytest.raises(ValueError, match="3 channels of tracks: as many sines as cosines"):
        track_channels(POINTS, VISIBLE, NUMBERS, (3, 4), 3, 8)
