"""Sound and pictures as one series: the order of times, whatever arrives first."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.layers.stitch import Stitch
from streamzoo.layers.time_positions import Film, Frames, Sound, time_positions

PICTURES = np.arange(12) / 25 + 0.0
SOUND = np.arange(7) / 13


def rows(times, kind):
    """(tokens [1, 16, 2], times [1, 16]), NaN behind those that come: a token says what it is."""
    times = np.append(np.asarray(times, np.float32), np.full(16 - len(times), np.nan, np.float32))
    x = np.stack([times, np.full(16, kind)], -1).astype(np.float32)
    return jnp.asarray(x)[None], jnp.asarray(times)[None]


@functools.cache
def programs(room=64):
    """(carry of one stream, a call, its end), compiled once."""
    stitch = Stitch(2, room)
    return stitch.init_carry(1), jax.jit(stitch.__call__), jax.jit(stitch.flush)


def stitched(calls, room=64):
    carry, step, flush = programs(room)
    found, order = [], []
    for pictures, sound, *to in calls:
        carry, out = step(carry, rows(pictures, 0), rows(sound, 1), *to)
        here = np.asarray(out.valid[0])
        found += [tuple(r) for r in np.asarray(out.x[0])[here].tolist()]
        order += np.asarray(out.positions()[0])[here].tolist()
        assert not np.asarray(out.x[0])[~here].any()
    carry, out = flush(carry)
    here = np.asarray(out.valid[0])
    found += [tuple(r) for r in np.asarray(out.x[0])[here].tolist()]
    order += np.asarray(out.positions()[0])[here].tolist()
    return found, order, int(carry["lost"][0])


def want():
    both = [(np.float32(t), k) for times, k in ((PICTURES, 0), (SOUND, 1)) for t in times]
    return [(float(t), float(k)) for t, k in sorted(both)]


def test_the_order_is_that_of_the_times_however_they_arrive():
    arrivals = (
        [(PICTURES, SOUND)],
        [(PICTURES, []), ([], SOUND)],
        [([], SOUND), (PICTURES, [])],
        [*(([], [t]) for t in SOUND), *(([t], []) for t in PICTURES)],
        [
            (PICTURES[2 * i : 2 * i + 2], SOUND[i : i + 1]) for i in range(6)
        ] + [([], SOUND[6:])],
    )  # fmt: skip
    for calls in arrivals:
        found, order, lost = stitched(calls)
        assert found == want() and lost == 0
        assert order == sorted(order)


def test_a_token_waits_for_the_other_kind_and_no_longer():
    carry, step, _ = programs()
    carry, out = step(carry, rows([0.0, 0.1, 0.2], 0), rows([], 1))
    assert not bool(out.valid.any())  # sound of before may still come
    carry, out = step(carry, rows([], 0), rows([0.1], 1))
    # the pictures up to then, and the sound itself: no picture of its moment can come any more
    assert np.asarray(out.time[out.valid]).tolist() == [0.0, np.float32(0.1), np.float32(0.1)]
    assert np.asarray(out.sound[out.valid]).tolist() == [False, False, True]
    _, out = step(carry, rows([], 0), rows([], 1), sound_to=0.5)  # silence until then
    assert np.asarray(out.time[out.valid]).tolist() == [np.float32(0.2)]


def test_sound_waits_for_all_pictures_of_its_moment():
    """A picture of many tokens may come in two calls."""
    carry, step, _ = programs()
    carry, out = step(carry, rows([0.1], 0), rows([0.1], 1))
    assert np.asarray(out.sound[out.valid]).tolist() == [False]
    carry, out = step(carry, rows([0.1, 0.1], 0), rows([], 1))
    assert np.asarray(out.sound[out.valid]).tolist() == [False, False]
    _, out = step(carry, rows([0.2], 0), rows([], 1))
    assert np.asarray(out.sound[out.valid]).tolist() == [True]


def test_one_moment_is_one_position_in_both_kinds():
    """As Qwen3-Omni's positions of a film have it, whose numbers a golden proves."""
    frames, sound = Frames(3, 1, 1, seconds=0.5), Sound(14)
    positions, heard = time_positions([Film(frames, sound)])
    found, order, _ = stitched([(np.arange(3) * 0.5, np.arange(14) / 13)])
    assert [bool(kind) for _, kind in found] == heard.tolist()
    np.testing.assert_allclose(order, positions[0], atol=1e-5)


def test_what_has_no_room_is_counted():
    found, _, lost = stitched([(PICTURES, [])], room=4)
    assert lost == 8 and [t for t, _ in found] == [float(np.float32(t)) for t in PICTURES[-4:]]


def test_tokens_that_did_not_come_leave_no_trace():
    carry, step, _ = programs()
    _, out = step(carry, rows([0.0, np.nan, 0.2], 0), rows([1.0], 1))
    assert np.asarray(out.time[out.valid]).tolist() == [0.0, np.float32(0.2)]
    assert bool(jnp.isfinite(out.x).all())
    assert np.asarray(out.valid[0]).tolist() == [True, True] + [False] * (out.x.shape[1] - 2)
