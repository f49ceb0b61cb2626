"""The jitter buffer and its clock against brute force, on times that are exact in binary."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from streamzoo.streaming.cli import parser
from streamzoo.streaming.cluster.command import cluster_of
from streamzoo.streaming.commands.common import CliError
from streamzoo.streaming.commands.reading import delay_of, reader_of
from streamzoo.streaming.sources import open_source
from streamzoo.streaming.sources.clocks import SenderClock
from streamzoo.streaming.sources.jitter import JitterBuffer

from .rtsp import make_clip

DRIFT, JUMP = 1 / 128, 5.0
TICK = 1 / 64  # seconds


class Model:
    """The same by its definition: everything is worked out anew from the list of all pushes."""

    def __init__(self, delay, capacity, room):
        self.delay, self.capacity, self.room = delay, capacity, room
        self.seen = []  # (era, stamp, now)
        self.held, self.last, self.released, self.dropped = [], None, [], []

    def offset(self, era, now):
        return min(t - s + DRIFT * (now - t) for e, s, t in self.seen if e == era)

    def push(self, item, stamp, now):
        era = 0
        if self.seen:
            era, _, before = self.seen[-1]
            if abs(now - stamp - self.offset(era, before)) > JUMP:
                era += 1
        self.seen.append((era, stamp, now))
        key = (era, stamp)
        if self.last is not None and key < self.last:
            self.dropped.append((item, "late"))
        elif key == self.last or key in [k for k, _, _ in self.held]:
            self.dropped.append((item, "duplicate"))
        else:
            due = min(now, stamp + self.offset(era, now)) + self.delay
            self.held = sorted([*self.held, (key, due, item)])
            if len(self.held) > self.capacity:
                self.dropped.append((self.held.pop(0)[2], "overflow"))

    def pop(self, now):
        # what would go out now, if it were asked for again and again
        ready = max((n for n, (_, due, _) in enumerate(self.held, 1) if due <= now), default=0)
        while self.room is not None and ready > self.room:
            self.dropped.append((self.held.pop(0)[2], "overflow"))
            ready -= 1
        if ready:
            self.last, _, item = self.held.pop(0)
            self.released.append(item)
            return item
        return None


# One step: (ticks since the step before, pops after it, ticks the stamp is off, clock set by).
STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(0, 3),
        st.one_of(st.just(0), st.integers(-90, 30)),
        st.sampled_from([0] * 12 + [64 * 7, -64 * 7, 64 * 3, -64 * 3, 64 * 3600]),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(
    STEPS,
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.integers(1, 12),
    st.sampled_from([None, 1, 2, 5]),
)
def test_equals_brute_force_and_keeps_its_books(steps, delay, capacity, room):
    buffer, model = JitterBuffer(delay, capacity, JUMP, room), Model(delay, capacity, room)
    now, clock, arrived, out = 1000.0, 0, {}, []
    for item, (wait, pops, off, jump) in enumerate(steps):
        now, clock = now + wait * TICK, clock + jump
        arrived[item] = now
        before = dict(buffer.dropped)
        reason = buffer.push(item, now + (off + clock) * TICK - 900, now)
        model.push(item, now + (off + clock) * TICK - 900, now)
        if reason is not None:
            assert buffer.dropped[reason] == before.get(reason, 0) + 1
        for _ in range(pops):
            got = buffer.pop(now)
            assert got == model.pop(now)
            if got is not None:
                out.append(got)
        assert len(buffer) == len(model.held) <= capacity
        assert buffer.received == buffer.released + sum(buffer.dropped.values()) + len(buffer)
        assert buffer.jumps == model.seen[-1][0]
        assert buffer.due == min((due for _, due, _ in model.held), default=None)
        if buffer.due is not None:  # no longer than the delay, whatever the stamps say
            assert buffer.due <= max(arrived[i] for _, _, i in model.held) + delay
            assert all(due <= arrived[i] + delay for _, due, i in model.held)
    while (got := buffer.pop(now + delay)) is not None:
        out.append(got)
    rest = sorted(model.held)
    assert len(buffer) == 0
    assert out == model.released + [item for _, _, item in rest][-(room or len(rest)) :]
    keys = [model.seen[i][:2] for i in out]
    assert all(
        a < b for a, b in zip(keys, keys[1:], strict=False)
    )  # by era and capture time, each once
    reasons = [reason for _, reason in model.dropped]
    over = [] if room is None else [item for _, _, item in rest][:-room]
    reasons += ["overflow"] * len(over)
    assert buffer.dropped == {r: reasons.count(r) for r in set(reasons)}
    assert sorted(out + over + [i for i, _ in model.dropped]) == list(range(len(steps)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(0, 60)), min_size=1, max_size=60))
def test_captured_never_goes_back_and_never_lies_ahead(steps):
    """Increasing stamps, increasing arrivals: so are the answers, and no later than these."""
    clock, stamp, now, last = SenderClock(1e9), 5.0, 0.0, -np.inf
    for step, wait in steps:
        stamp, now = stamp + step * TICK, now + wait * TICK
        local = clock(stamp, now)
        assert last <= local <= now
        last = local


@pytest.mark.parametrize("drift", [-2e-4, 0.0, 2e-4])
def test_a_drifting_sender_is_followed(drift):
    """A day of frames 4 s apart, delayed by 5 ms and more; 17 s lie between the clocks by then."""
    rng, clock, errors = np.random.default_rng(0), SenderClock(), []
    for true in np.arange(0, 86400, 4.0):
        arrival = true + 0.005 + rng.exponential(0.05)
        errors.append(clock(777 + true * (1 + drift), arrival) - true)
    assert np.abs(errors[50:]).max() < 0.3


def test_a_burst_after_a_stall_plays_at_the_pace_of_capture():
    """1.5 s of silence, then all at once: a delay of 2 s hides it to the frame."""
    buffer, out, now = JitterBuffer(delay=2.0), [], 0.0
    arrivals = [(k / 32, k / 32 if not 40 <= k < 88 else 88 / 32) for k in range(200)]
    while now < 10:
        while arrivals and arrivals[0][1] <= now:
            stamp, _ = arrivals.pop(0)
            buffer.push(stamp, stamp, now)
        while (item := buffer.pop(now)) is not None:
            out.append((item, now))
        now += 1 / 64
    assert [item for item, _ in out] == [k / 32 for k in range(200)] and not buffer.dropped
    assert {when - item for item, when in out} <= {2.0, 2.0 + 1 / 64}  # one step of the loop


def test_a_slow_reader_gets_what_is_new():
    """8 frames a second of 32: without room for what is due, the delay doubles before any drop."""
    ages = {}
    for room in (None, 6):
        buffer, age = JitterBuffer(delay=1.0, capacity=66, room=room), []
        for k in range(320):
            buffer.push(k, k / 32, k / 32)
            if k % 4 == 3 and (item := buffer.pop(k / 32)) is not None:
                age.append(k / 32 - item / 32)
        ages[room] = age[-1]
        assert buffer.received == buffer.released + sum(buffer.dropped.values()) + len(buffer)
    assert ages[None] > 1.9 and ages[6] < 1.2


def test_one_wild_stamp_costs_nobody_else():
    buffer, out = JitterBuffer(delay=1.0), []
    for k in range(100):
        buffer.push(k, 1e9 if k == 50 else k / 32, k / 32)
        while (item := buffer.pop(k / 32)) is not None:
            out.append(item)
    while (item := buffer.pop(9.0)) is not None:
        out.append(item)
    assert out == list(range(100)) and buffer.jumps == 2 and not buffer.dropped


def test_clear_counts_and_bad_numbers_are_refused():
    buffer = JitterBuffer(1.0)
    buffer.push("a", 0.0, 0.0)
    buffer.clear()
    assert buffer.dropped == {"closed": 1} and len(buffer) == 0 and buffer.received == 1
    with pytest.raises(ValueError, match="capture time nan"):
        buffer.push("b", float("nan"), 0.0)
    assert buffer.received == 1
    for bad in (dict(delay=-1.0), dict(delay=5.0), dict(capacity=0), dict(delay=float("nan"))):
        with pytest.raises(ValueError, match="room for at least 1"):
            JitterBuffer(**bad)


@pytest.mark.parametrize("command", ["watch", "demo", "track", "chat", "serve", "cluster"])
def test_every_command_that_opens_addresses_has_the_jitter_buffer_on(command):
    """No delay asked for is None: 1 s of an address; its effect: ``test_sources_live.py``."""
    words = {"serve": ["serve"], "cluster": ["cluster", "--store", "s"], "demo": ["demo"]}
    words = words.get(command, [command, "rtsp://127.0.0.1/cam"])
    parse = lambda *more: delay_of(parser().parse_args([*words, *more]))
    assert parse() is None and parse("--delay", "0") == 0 and parse("--delay", "1.5") == 1.5
    with pytest.raises(CliError, match="less than 5 seconds"):
        parse("--delay", "5")
    if command == "cluster":
        args = parser().parse_args([*words, "--delay", "2"])
        assert cluster_of(args).settings.reader == {"delay": 2.0}
    elif command != "demo":
        assert reader_of(parser().parse_args(words))["delay"] is None


def test_what_is_on_this_machine_is_not_held(tmp_path):
    make_clip(tmp_path / "a.mp4", frames=5)
    with open_source(tmp_path / "a.mp4", live=True, delay=None) as source:
        assert source.delay == 0 and source.read(timeout=5) is not None
