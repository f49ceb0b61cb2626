"""Which thing sounds: neither kind has the answer alone, and a small model needs both."""

import numpy as np
import pytest

from streamzoo.train.sounding import BANDS, FRAMES, clips, learned


def test_neither_kind_tells_alone_and_both_together_do():
    given = clips(np.random.default_rng(0), 4000)
    left = given.pictures[:, -1, 0].mean(axis=1).argmax(-1)  # the colours at the end
    right = given.pictures[:, -1, 1].mean(axis=1).argmax(-1)
    loud = given.sound.max(axis=2)
    last = np.array([np.flatnonzero(row > 1.4)[-1] if (row > 1.4).any() else 0 for row in loud])
    pitch = given.sound[np.arange(4000), last].argmax(-1)
    colour = np.clip(np.round((pitch - 2) / 4), 0, 2).astype(int)
    told = np.where(colour == left, 0, np.where(colour == right, 1, 2))
    assert (told == given.side).mean() > 0.93
    for alone in (left * 3 + right, colour):  # the best guess of each kind is a coin
        best = [np.bincount(given.side[alone == v], minlength=2).max() for v in np.unique(alone)]
        assert sum(best) / 4000 < 0.54
    assert given.pictures.shape[1] == FRAMES and given.sound.shape[2] == BANDS


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_model_needs_its_ears(seed):
    both = learned(seed)
    assert both["right"] > 0.85
    assert both["other_sound"] < 0.62 and both["other_pictures"] < 0.62
    for kind in ("sound", "pictures"):
        assert learned(seed, kind, steps=300)["right"] < 0.56
