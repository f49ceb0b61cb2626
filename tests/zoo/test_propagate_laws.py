"""The laws of a tracker's masks, against SciPy's morphology and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from streamzoo.zoo.segment.propagate import laws
from streamzoo.zoo.segment.propagate.laws import OUT, Place

EIGHT = np.ones((3, 3), bool)


def blobs(seed, shape=(2, 3, 14, 19), share=0.45):
    return np.random.default_rng(seed).random(shape) < share


def each(function, *arrays):
    """``function`` of the last two axes, by NumPy."""
    flat = [a.reshape(-1, *a.shape[-2:]) for a in arrays]
    return np.stack([function(*one) for one in zip(*flat, strict=True)]).reshape(arrays[0].shape)


@pytest.mark.parametrize("by", [1, 3])
def test_widened_is_scipys_dilation(by):
    cells = blobs(0, share=0.05)
    square = np.ones((2 * by + 1,) * 2, bool)
    want = each(lambda a: ndimage.binary_dilation(a, square), cells)
    np.testing.assert_array_equal(laws.widened(jnp.asarray(cells), by), want)


def test_joined_is_scipys_propagation():
    cells, seeds = blobs(1), blobs(2, share=0.02)
    want = each(lambda c, s: ndimage.binary_propagation(s & c, EIGHT, mask=c), cells, seeds)
    got = np.asarray(jax.jit(laws.joined)(cells, seeds))
    np.testing.assert_array_equal(got, want)
    assert want.any() and (want != cells).any()


def test_boxes_are_wider_by_their_cells():
    cells = np.zeros((1, 2, 8, 10), bool)
    cells[0, 0, 3, 4] = cells[0, 0, 4, 6] = True
    want = np.zeros_like(cells)
    want[0, 0, 1:7, 2:9] = True
    np.testing.assert_array_equal(laws.boxed(jnp.asarray(cells), jnp.full((1, 2), 2)), want)


@pytest.fixture(scope="module")
def part():
    """own_part with parts at most two cells from the track, compiled."""
    return jax.jit(
        lambda low, cells, unseen, told: laws.own_part(low, Place(cells, unseen), told, 2)
    )


def grid(*boxes, shape=(12, 30)):
    cells = np.zeros(shape, bool)
    for rows, cols in boxes:
        cells[rows, cols] = True
    return cells


ONE, TWO = (slice(2, 8), slice(3, 7)), (slice(3, 9), slice(18, 23))
NOBODY = grid()


def ask(part, mask, place, unseen=0, told=NOBODY, low=None):
    """(what is left of the mask, the place after it, frames unseen)."""
    low = np.where(mask, 2.0, -2.0) if low is None else low
    given = (a[None, None] for a in (low, place))
    others, after = part(*given, np.full((1, 1), unseen), told[None, None])
    assert after.cells.shape == others.shape and after.unseen.dtype == jnp.int32
    left = mask & ~np.asarray(others)[0, 0]
    return left, np.asarray(after.cells)[0, 0], int(after.unseen[0, 0])


def test_a_second_object_in_the_mask_is_left_out(part):
    kept, place, unseen = ask(part, grid(ONE, TWO), grid((slice(2, 8), slice(4, 8))))
    np.testing.assert_array_equal(kept, grid(ONE))
    np.testing.assert_array_equal(place, grid(ONE))
    assert unseen == 0


def test_all_parts_beside_the_track_stay(part):
    """A pole in front of an object cuts its mask in two."""
    cut = grid((slice(2, 8), slice(3, 5)), (slice(2, 8), slice(6, 9)))
    kept, *_ = ask(part, cut, grid((slice(2, 8), slice(3, 8))))
    np.testing.assert_array_equal(kept, cut)


def test_a_prompt_says_which_part_is_meant(part):
    kept, *_ = ask(part, grid(ONE, TWO), NOBODY, told=grid((slice(5, 6), slice(20, 21))))
    np.testing.assert_array_equal(kept, grid(TWO))


def test_nothing_known_the_surest_part_stays(part):
    low = np.where(grid(ONE, TWO), 2.0, -2.0)
    low[4, 20] = 3.0
    kept, *_ = ask(part, grid(ONE, TWO), NOBODY, low=low)
    np.testing.assert_array_equal(kept, grid(TWO))


def test_what_is_out_of_sight_is_looked_for_farther_and_farther(part):
    was = grid(ONE)
    kept, place, unseen = ask(part, grid(TWO), was)  # too far for one frame
    assert not kept.any() and unseen == 1
    np.testing.assert_array_equal(place, was)
    kept, place, unseen = ask(part, grid(TWO), was, unseen=3)
    np.testing.assert_array_equal(kept, grid(TWO))
    assert unseen == 0 and (place == kept).all()


def test_what_is_half_known_beside_the_track_stays_and_beside_the_others_goes(part):
    low = np.where(grid(ONE, TWO), 2.0, -1.0)
    place = Place(jnp.asarray(grid(ONE))[None, None], jnp.zeros((1, 1), jnp.int32))
    others, _ = laws.own_part(jnp.asarray(low)[None, None], place, NOBODY[None, None], 2)
    want = ndimage.binary_dilation(grid(TWO), EIGHT)
    np.testing.assert_array_equal(others[0, 0], want)


def test_what_is_taken_away_is_out():
    logits, dropped = np.full((1, 1, 8, 8), 5.0), np.zeros((1, 1, 4, 4), bool)
    dropped[..., :2, :1] = True
    got = np.asarray(laws.without(jnp.asarray(logits), jnp.asarray(dropped)))
    want = np.full((8, 8), 5.0)
    want[:4, :2] = OUT
    np.testing.assert_array_equal(got[0, 0], want)
    low = np.full((1, 1, 4, 4), -9.0)
    np.testing.assert_array_equal(laws.without(jnp.asarray(low), jnp.asarray(dropped)), low)


def test_a_mean_over_the_cells_there_are():
    x = np.random.default_rng(4).normal(size=(1, 2, 5, 6)).astype(np.float32)
    ones = np.ones((3, 3))
    around = lambda a: ndimage.convolve(a, ones, mode="constant")
    want = each(lambda a: around(a) / around(np.ones_like(a)), x)
    np.testing.assert_allclose(laws.smooth(jnp.asarray(x)), want, atol=1e-6)


def test_of_those_who_claim_a_cell_the_surest_has_it():
    logits = np.random.default_rng(3).normal(size=(2, 3, 5, 7)).astype(np.float32)
    got = np.asarray(laws.compete(jnp.asarray(logits), jnp.ones((2, 3), bool)))
    first = (logits == logits.max(1, keepdims=True)) & (logits > 0)
    np.testing.assert_array_equal(got > 0, first)
    alone = (logits > 0).sum(1, keepdims=True) <= first
    np.testing.assert_array_equal(got[alone], logits[alone])
    active = np.asarray([[True, False, False]] * 2)
    some = laws.compete(jnp.asarray(logits), jnp.asarray(active))
    np.testing.assert_array_equal(some[:, 0], logits[:, 0])
    np.testing.assert_array_equal(laws.compete(logits[:, :1], active[:, :1]), logits[:, :1])
