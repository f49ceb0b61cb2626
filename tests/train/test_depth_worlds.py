"""Depth is learned from drawn worlds: they are kept, a stopped run goes on, metrics are honest."""

import numpy as np
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.data.world import SKY, World
from streamzoo.train.depth import DepthRecipe
from streamzoo.train.depth.measure import aligned_depth, errors, still_pixels
from streamzoo.train.depth.worlds import Worlds, changed, drawn

SIZE = (32, 64)


def worlds(cache="", seed=0):
    return Worlds(SIZE, 3, 2, str(cache), range(2), seed)


def test_worlds_are_drawn_once_and_batches_are_their_number(tmp_path):
    first = worlds(tmp_path)[5]
    assert first["frames"].shape == (2, 1, *SIZE, 3) and first["inverse"].shape == (2, 1, *SIZE)
    files = sorted(tmp_path.rglob("*.npz"))
    assert files and not list(tmp_path.rglob("*.part*"))
    marked = [f.stat().st_mtime_ns for f in files]
    again, other = worlds(tmp_path)[5], worlds(tmp_path, seed=1)[5]
    assert [f.stat().st_mtime_ns for f in files] == marked, "kept, not drawn again"
    np.testing.assert_array_equal(again["frames"], first["frames"])
    np.testing.assert_array_equal(again["frames"], worlds()[5]["frames"])
    assert (other["frames"] != first["frames"]).any()


def test_a_picture_and_its_depth_are_changed_alike():
    """The inverse depth as the picture: wherever one goes the other goes."""
    ramp = np.tile(np.linspace(0.1, 0.9, SIZE[1]), (SIZE[0], 1))
    frame = np.uint8(255 * np.repeat(ramp[..., None], 3, -1))
    for seed in range(12):
        picture, inverse = changed(frame, ramp.astype(np.float32), np.random.default_rng(seed))
        grey = picture.astype(float).mean(-1)
        inside = (grey > 5) & (grey < 250)
        assert np.corrcoef(grey[inside], inverse[inside])[0, 1] > 0.9


def test_worlds_have_skies_and_round_things():
    kinds = [drawn(seed, SIZE) for seed in range(40)]
    assert 0.2 < np.mean([w.sky for w in kinds]) < 0.6 and any(w.round for w in kinds)
    shot = World(5, (48, 64), boxes=4, moving=0, round=4, sky=True, room=(12.0, 1.5, 25.0)).shoot(1)
    depth, surface = shot.depth[0], shot.surface[0]
    assert (depth[surface < 3] == SKY).all() and depth[surface == 3].max() < 60
    assert (surface >= 6).any()
    k = int(np.bincount(surface[surface >= 6]).argmax())
    thing = surface == k
    rows = np.flatnonzero(thing.any(1))
    widths = thing[rows].sum(1)
    assert widths.max() > widths[0], "an ellipsoid is narrow at its top"


def test_errors_are_of_what_is_left_after_scale_and_shift():
    shot = World(2, (24, 32), moving=1, still=True).shoot(3)
    perfect = 3 * (1 / shot.depth) + 0.2
    assert errors(perfect, shot)["abs_rel"] < 1e-3 and errors(perfect, shot)["d1"] == 1
    assert errors(shot.depth, shot)["abs_rel"] > 0.1, "depth is not an inverse depth"
    np.testing.assert_allclose(aligned_depth(perfect[0], shot.depth[0]), shot.depth[0], rtol=1e-3)
    assert 0.5 < still_pixels(shot).mean() < 1


def test_a_size_of_which_the_encoder_makes_nothing_is_refused():
    with pytest.raises(DataError, match="multiples of 32"):
        DepthRecipe(size=(40, 64)).check()
