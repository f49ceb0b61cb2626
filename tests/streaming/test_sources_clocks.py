"""Stamps with faults in them: a local fault never shifts what follows."""

from fractions import Fraction

import av
import numpy as np
import pytest

from streamzoo.streaming.sources import open_source
from streamzoo.streaming.sources.clocks import LiveClock, RecordedClock, UsualGap

from . import odd_files

COUNT, STEP = 60, 0.1


def recorded(stamps, restarts=False, origin=0.0, decoding=None):
    clock = RecordedClock(STEP, origin, restarts)
    stamps = [None if s is None else float(s) for s in stamps]
    pairs = [(s, s if decoding is None else decoding[k]) for k, s in enumerate(stamps)]
    ahead = RecordedClock.AHEAD + 1
    return np.array([clock(p, pairs[k + 1 : k + ahead]) for k, p in enumerate(pairs)])


def live(stamps, walls=None, **options):
    clock = LiveClock(STEP, **options)
    walls = np.arange(len(stamps)) * STEP if walls is None else walls
    return np.array([clock(s, w) for s, w in zip(stamps, walls, strict=True)])


def faulty(kind, at):
    """(stamps, which of them are wrong)."""
    stamps: list[float | None] = [round(k * STEP, 6) for k in range(COUNT)]
    wrong = {at}
    if kind == "ahead":
        stamps[at] += 5000
    elif kind == "a little ahead":
        stamps[at] += 3.3
    elif kind == "behind":
        stamps[at] = max(0.0, stamps[at] - 2.5)
    elif kind == "zero":
        stamps[at] = 0.0
    elif kind == "missing":
        stamps[at] = None
    elif kind == "repeated":
        stamps[at] = stamps[at - 1]
    elif kind == "two ahead":
        stamps[at : at + 2] = [(s or 0.0) + 777 for s in stamps[at : at + 2]]
        wrong = {at, at + 1}
    elif kind == "negative":
        stamps[at] = -3e9
    return stamps, wrong


KINDS = [
    "ahead",
    "a little ahead",
    "behind",
    "zero",
    "missing",
    "repeated",
    "two ahead",
    "negative",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 5, 30, COUNT - 9])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_bad_stamp_of_a_recording_is_the_only_one_that_moves(kind, at, restarts):
    stamps, wrong = faulty(kind, at)
    times = recorded(stamps, restarts)
    assert (np.diff(times) > 0).all()
    good = [k for k in range(COUNT) if k not in wrong]
    np.testing.assert_allclose(times[good], np.array(good) * STEP, atol=1e-4)
    for k in wrong:
        assert abs(times[k] - k * STEP) <= STEP + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [3, 30])
def test_a_bad_stamp_of_a_live_stream_shifts_nothing(kind, at):
    stamps, wrong = faulty(kind, at)
    times = live(stamps)
    assert (np.diff(times) > 0).all()
    good = [k for k in range(COUNT) if k not in wrong]
    # two that agree, and neither with what was nor with the clock on the wall, set the clock: the
    # second of them is the first that is believed
    np.testing.assert_allclose(times[good], np.array(good) * STEP, atol=STEP + 1e-6)
    np.testing.assert_allclose(times[-10:], np.arange(COUNT - 10, COUNT) * STEP, atol=1e-3)


def test_many_bad_stamps_at_random():
    rng = np.random.default_rng(0)
    for _ in range(50):
        stamps = np.arange(300) * STEP
        wrong = 1 + np.flatnonzero(rng.random(299) < 0.08)
        stamps[wrong] += rng.choice([-20, -3, 2, 40, 1e5], len(wrong))
        times = recorded(stamps.tolist())
        assert (np.diff(times) > 0).all()
        good = np.setdiff1d(np.arange(2, 290), wrong)
        off = np.abs(times[good] - good * STEP)
        assert (off < 2 * STEP).mean() > 0.97 and abs(times[288] - 28.8) < 0.5


def test_joined_recordings_follow_each_other_and_pauses_stay():
    first, second = np.arange(40) * STEP, np.arange(40) * STEP
    whole = np.arange(80) * STEP
    for restarts in (True, False):  # behind: no clock runs backwards, whatever the container
        np.testing.assert_allclose(recorded([*first, *second], restarts), whole, atol=1e-6)
        np.testing.assert_allclose(recorded([*(first + 5000), *second], restarts, 5000.0), whole)
    np.testing.assert_allclose(recorded([*first, *(second + 5000)], restarts=True), whole)
    paused = np.concatenate([first, second + 60])
    np.testing.assert_allclose(recorded(paused.tolist()), paused)  # a recording that was paused
    short = [*(first[:5]), *second]  # the first piece is shorter than what is looked at
    np.testing.assert_allclose(recorded(short), np.arange(45) * STEP, atol=1e-6)


def test_stamps_that_stand_still_go_on_at_the_nominal_rate():
    times = recorded([0.0] * 40)
    assert times[-1] > 2.0 and (np.diff(times) > 0).all()


def test_decoding_times_where_the_others_are_out_of_order():
    shown = [1, 4, 3, 5, 2, 8, 7, 9, 6, 12, 11, 13, 10, 16, 15, 17, 14]
    stamps = [s * STEP for s in shown]
    times = recorded(stamps, decoding=[k * STEP for k in range(2, 2 + len(shown))])
    np.testing.assert_allclose(np.diff(times)[8:], STEP, atol=1e-6)


@pytest.mark.parametrize("jump", [100.0, -100.0, 5e6, -7.0])
def test_a_camera_that_sets_its_clock_goes_on_by_the_clock_on_the_wall(jump):
    stamps = [k * STEP + (jump if k >= 30 else 0) for k in range(COUNT)]
    np.testing.assert_allclose(live(stamps), np.arange(COUNT) * STEP, atol=STEP)


def test_what_was_lost_on_the_way_leaves_its_gap_and_bursts_keep_their_spacing():
    stamps = np.array([k * STEP for k in range(20)] + [k * STEP for k in range(60, 80)])
    np.testing.assert_allclose(live(stamps, walls=stamps), stamps, atol=1e-6)
    burst = np.arange(30) * STEP  # a server sends what it has kept, all at once
    np.testing.assert_allclose(live(burst, walls=np.zeros(30)), burst, atol=1e-6)


def test_without_stamps_arrival_counts():
    rng = np.random.default_rng(1)
    walls = 100 + np.cumsum(rng.uniform(0.01, 0.5, 50))
    np.testing.assert_allclose(live([None] * 50, walls), walls - walls[0], atol=1e-3)


def test_segments_at_their_own_pace_are_closed_where_the_clock_restarts():
    stamps = [k * STEP for k in range(30)] + [5000 + k * STEP for k in range(30)]
    times = live(stamps, walls=np.zeros(60), witness=False)
    np.testing.assert_allclose(times, np.arange(60) * STEP, atol=1e-6)


def test_every_tenth_stamp_repeated_in_a_file(tmp_path):
    stamps = [(i - 1 if i % 10 == 9 else i) / 10 for i in range(40)]
    plain = odd_files.write(tmp_path / "plain.mkv", frames=40)

    def repeat(number, packet):
        packet.pts = packet.dts = round(stamps[number] * 1000)
        packet.time_base = Fraction(1, 1000)

    path = odd_files.remuxed(tmp_path / "repeated.mkv", plain, repeat)
    with open_source(path) as source:
        times = np.array([f.time for f in source])
    error = np.abs(times - stamps)
    assert (np.diff(times) > 0).all() and error.max() <= 0.1
    assert error[[i for i in range(40) if i % 10 != 9]].max() < 2e-3


def test_joined_transport_streams(tmp_path):
    parts = [
        odd_files.write(tmp_path / f"{start}.ts", frames=40, ticks=10,
                        pts=range(10 * start, 10 * start + 40)).read_bytes()
        for start in (0, 5000)
    ]  # fmt: skip
    for order in (parts, parts[::-1]):
        path = tmp_path / "joined.ts"
        path.write_bytes(b"".join(order))
        with open_source(path) as source:
            times = [f.time for f in source]
        assert 76 <= len(times) <= 80 and 7.5 < times[-1] < 8.5


def test_b_frames_in_a_container_of_decoding_times(tmp_path):
    path = odd_files.FILES["b_frames.avi"](tmp_path / "b.avi")
    with av.open(str(path)) as container:  # what the guess of presentation times is worth
        assert container.format.name == "avi"
    with open_source(path) as source:
        np.testing.assert_allclose(np.diff([f.time for f in source]), 0.1, atol=1e-3)


def test_a_burst_of_stamps_in_order_is_no_rate():
    """After a stall many pictures come at once, microseconds apart: nothing was missed then, and
    what is missed later is counted by the rate of the stream."""
    usual = UsualGap()
    assert [usual.missing(0.04, 0.1) for _ in range(40)] == [0] * 40
    assert usual.missing(0.4, 0.1) == 9  # by its own rate, not the nominal one
    assert [usual.missing(1e-6, 0.1) for _ in range(60)] == [0] * 60
    assert [usual.missing(0.04, 0.1) for _ in range(40)] == [0] * 40
    assert usual.missing(0.2, 0.1) == 4 and UsualGap().missing(0.5, 0.1) == 4
