"""The scheduler on a clock of our own: deadlines, batches, admission, and frames that add up."""

import functools
import math
import random
import re

import pytest

from streamzoo.streaming.engine import Costs, Refused, Scheduler
from streamzoo.streaming.engine.admission import Demand, load, refusal
from streamzoo.streaming.engine.fairness import Faded


def instance(seed):
    """(width, budgets, releases per stream), all integers."""
    rng = random.Random(seed)
    streams = rng.randint(1, 3)
    budgets = [rng.randint(1, 3) for _ in range(streams)]
    releases = [sorted(rng.sample(range(5), rng.randint(2, 4))) for _ in range(streams)]
    return rng.choice((1, 1, 2)), budgets, releases


def most_in_time(width, budgets, releases):
    """Over all schedules: steps of length 1 at whole times, ``width`` streams in each."""

    @functools.cache
    def best(now, done):  # done[s]: frames of stream s that are behind us, answered or not
        if all(d == len(r) for d, r in zip(done, releases, strict=True)) or now > 12:
            return 0
        choices = [(0, done)]
        for s, frames in enumerate(releases):
            new = []
            for count, at in choices:
                for k in range(done[s], len(frames)):  # any frame that is there, skipping others
                    if frames[k] <= now < frames[k] + budgets[s] and count < width:
                        new.append((count + 1, at[:s] + (k + 1,) + at[s + 1 :]))
            choices += new
        return max(count + best(now + 1, at) for count, at in choices)

    return best(0, (0,) * len(releases))


def play(width, budgets, releases, policy):
    """Books of the same instance under the scheduler; all frames of a step take 1."""
    scheduler = Scheduler(Costs({b: [1.0] for b in range(1, width + 1)}), 8)
    for s, budget in enumerate(budgets):
        scheduler.admit(s, 1.0, budget=budget, policy=policy, capacity=8, check=False)
    for now in range(40):
        for batch in list(scheduler.running):
            scheduler.done(batch, now)
        for s, frames in enumerate(releases):
            if now in frames:
                assert scheduler.offer(s, None, now)
        scheduler.next(now)
    books = scheduler.ledger.total()
    assert books.in_flight == 0 and books.balanced
    return books


def test_edf_against_all_schedules():
    feasible = 0
    for seed in range(200):
        width, budgets, releases = instance(seed)
        most, frames = most_in_time(width, budgets, releases), sum(map(len, releases))
        books = play(width, budgets, releases, "latest")
        assert books.completed - books.late == most, seed
        if most == frames:  # where everything can be in time, it is, under every policy
            feasible += 1
            assert play(width, budgets, releases, "lossless").late == 0, seed
    assert 40 < feasible < 160


def test_the_batch_is_as_large_as_the_deadlines_allow():
    # A step of 8 costs 30 ms, of 1 5 ms: eight at once are served together ...
    costs = Costs({1: [0.005], 4: [0.016], 8: [0.03]})
    scheduler = Scheduler(costs, 8)
    for k in range(8):
        scheduler.admit(k, 1, budget=0.1, check=False)
        scheduler.offer(k, None, 0.0)
    assert scheduler.next(0.0).bucket == 8
    # ... unless one of them is due before that: it goes first, alone.
    scheduler = Scheduler(costs, 8)
    for k in range(8):
        scheduler.admit(k, 1, budget=0.01 if k == 5 else 0.1, check=False)
        scheduler.offer(k, None, 0.0)
    batch = scheduler.next(0.0)
    assert batch.bucket == 1 and [s.name for s, _ in batch.rows] == [5]
    # Where batches gain nothing, small ones answer sooner.
    scheduler = Scheduler(Costs.linear(0, 0.005, (1, 2, 4)), 4)
    for k in range(4):
        scheduler.admit(k, 1, budget=0.1)
        scheduler.offer(k, None, 0.0)
    assert scheduler.next(0.0).bucket == 1
    # Three in a bucket of four: padded.
    scheduler = Scheduler(Costs({1: [0.01], 4: [0.01]}), 4)
    for k in range(3):
        scheduler.admit(k, 1)
        scheduler.offer(k, None, 0.0)
    batch = scheduler.next(0.0)
    assert batch.bucket == 4 and len(batch.rows) == 3


def test_depth_steps_run_at_once_and_a_stream_keeps_its_order():
    scheduler = Scheduler(Costs({1: [0.01]}), 1, depth=2)
    scheduler.admit("a", 10, policy="lossless")
    for k in range(3):
        scheduler.offer("a", k, 0.0)
    first, second = scheduler.next(0.0), scheduler.next(0.0)
    assert scheduler.next(0.0) is None
    assert [b.rows[0][1].index for b in (first, second)] == [0, 1]
    scheduler.done(first, 0.01)
    assert scheduler.next(0.01).rows[0][1].index == 2


def test_late_frames_of_a_lossless_stream_do_not_make_the_others_late():
    """Plain earliest-deadline-first would serve the backlog first, for ever."""
    scheduler = Scheduler(Costs({1: [0.01]}), 2)
    scheduler.admit("slow", 50, budget=0.05, policy="lossless", capacity=100, check=False)
    scheduler.admit("live", 20, budget=0.05, check=False)
    for k in range(100):
        scheduler.offer("slow", k, 0.0)
    served = []
    for tick in range(120):
        now = tick * 0.01
        for batch in list(scheduler.running):
            served += [s.name for s, _ in scheduler.done(batch, now)]
        if tick and tick % 5 == 0:  # at 0 the backlog is not late yet
            scheduler.offer("live", None, now)
        scheduler.next(now)
    live = scheduler.streams["live"].account.snapshot()
    assert live.late == 0 and not live.dropped and live.completed >= 22
    assert served.count("slow") > 90  # and it is not starved


def test_everything_late_is_still_served():
    """Costs that were wrong once must not stop the frames that would correct them."""
    scheduler = Scheduler(Costs({1: [10.0]}), 1)
    scheduler.admit("a", 1, check=False)
    for k in range(70):
        scheduler.offer("a", None, float(k))
        scheduler.done(scheduler.next(k), k + 0.01, 0.01)
    assert scheduler.streams["a"].account.snapshot().completed == 70
    assert scheduler.costs.high(1) == 0.01


def test_load_against_counting():
    """Rates 4, 2 and 1: in a second, 1 step of three, 1 of two and 2 of one."""
    costs = Costs({1: [0.1], 2: [0.15], 4: [0.2]})
    demands = [Demand(2, 1), Demand(4, 1), Demand(1, 1)]
    assert load(costs, demands) == pytest.approx(0.2 + 0.15 + 2 * 0.1)
    assert load(Costs({1: [0.01]}), [Demand(15, 1)] * 4) == pytest.approx(0.6)


def test_admission_refuses_with_a_reason():
    scheduler = Scheduler(Costs({1: [0.01]}), 8)
    for k in range(6):
        scheduler.admit(k, 15)
    with pytest.raises(Refused, match=r"'x' refused: 7 streams at 105 .* 105% .* 90% is the limit"):
        scheduler.admit("x", 15)
    scheduler.pause(0)
    scheduler.admit("x", 15)
    with pytest.raises(Refused, match="stream 0 refused"):
        scheduler.resume(0)  # its share has gone
    scheduler.remove("x")
    scheduler.resume(0)
    scheduler.remove(0)
    with pytest.raises(Refused, match=r"1 in all, .* take 20 ms .* budget is 15 ms"):
        scheduler.admit("y", 0.01, budget=0.015)
    scheduler.admit("y", 0.01, budget=0.08)
    why = refusal(scheduler.costs, [Demand(1, 0.075)] * 7, max_load=0.9)
    assert why and re.search(
        r"7 in all, and 10 ms .* take 80 ms .* budget is 75 ms; give 80 ms", why
    )
    scheduler.admit("z", 0.01, budget=0.5)
    scheduler.admit("u", 0.01, budget=0.5)
    with pytest.raises(Refused, match="all 8 slots are taken"):
        scheduler.admit("w", 0.01, budget=0.5)
    with pytest.raises(ValueError, match="'z' is there already"):
        scheduler.admit("z", 1)
    with pytest.raises(ValueError, match="fps=0"):
        scheduler.admit("v", 0)


@pytest.mark.parametrize("streams, cost", [(7, 0.01), (40, 0.004), (3, 0.9)])
def test_the_remedy_of_a_refusal_is_one(streams, cost):
    costs = Costs({1: [cost]})

    def why(fps, budget=1e3):
        return refusal(costs, [Demand(fps, budget)] * streams, max_load=0.9)

    def named(pattern, text):
        found = re.search(pattern, text or "")
        assert found is not None
        return float(found[1])

    rate = named(r"give (\S+) frames/s each or less \(--fps\)", why(1 / cost))
    assert why(rate) is None and why(1.3 * rate + 1) and rate * streams * cost > 0.5
    least = named(r"give (\d+) ms or more \(--budget-ms\)", why(0.01, 1e-3))
    assert why(0.01, least / 1e3) is None and why(0.01, least / 1e3 - 2e-3)


@pytest.mark.parametrize("seed", range(6))
def test_every_frame_has_one_fate(seed):
    """Random offers, steps, faults, pauses and removals, against a tally by frame."""
    rng = random.Random(seed)
    scheduler = Scheduler(Costs.linear(0.01, 0.002, (1, 2, 4)), 4, depth=2)
    fate, refused, now, number = {}, 0, 0.0, 0
    states = []
    for _ in range(800):
        now += rng.random() * 0.01
        names = list(scheduler.streams)
        move = rng.random()
        if (move < 0.05 and len(names) < 4) or not names:
            policy = rng.choice(("latest", "lossless", "events"))
            name = next(n for n in range(9) if n not in names)
            state = scheduler.admit(name, 10, policy=policy, capacity=3, check=False)
            state.room = rng.choice((None, 2))
            states.append(state)
        elif move < 0.08:
            scheduler.remove(rng.choice(names))
        elif move < 0.14:
            scheduler.pause(rng.choice(names))
        elif move < 0.24:
            scheduler.streams[rng.choice(names)].paused = False
        elif move < 0.6:
            name = rng.choice(names)
            state, event = scheduler.streams[name], rng.random() < 0.3
            credits = state.credits
            taken = scheduler.offer(name, number, now, event=event)
            assert (taken is not None) == (credits > 0)
            if taken:
                fate[number] = None
                assert taken.index == state.received - 1
            refused += taken is None
            number += 1
        elif move < 0.8:
            batch = scheduler.next(now)
            if batch:
                assert len({s for s, _ in batch.rows}) == len(batch.rows) <= batch.bucket
                assert all(not s.paused and not s.closed for s, _ in batch.rows)
        elif scheduler.running:
            batch = scheduler.running[0]
            failed = rng.random() < 0.3
            kept = scheduler.fail(batch, now) if failed else scheduler.done(batch, now, 0.01)
            kept = {item.payload for _, item in kept}
            for state, item in batch.rows:
                assert (item.payload in kept) == (not state.closed)
                served = "error" if failed else "completed"
                fate[item.payload] = "closed" if state.closed else served
        for state in names and scheduler.streams.values():
            if state.unread and rng.random() < 0.5:
                scheduler.read(state)
            books = state.account.snapshot()
            assert books.balanced and len(state.queue) <= 3
            assert (books.waiting, books.running) == (len(state.queue), state.running)
            assert state.room is None or state.unread + state.running <= state.room
            if type(state.queue).__name__ == "Lossless":
                assert not {"late", "superseded"} & set(books.dropped)
    total = scheduler.ledger.total()
    assert total.balanced and total.received == len(fate) and total.refused == refused
    assert total.completed == sum(f == "completed" for f in fate.values())
    assert total.dropped.get("error", 0) == sum(f == "error" for f in fate.values())
    waiting = {i.payload for s in scheduler.streams.values() for i in s.queue}
    assert all(fate[number] is None for number in waiting) and len(waiting) == total.waiting
    closed = sum(f == "closed" for f in fate.values())
    unknown = sum(f is None for f in fate.values()) - total.in_flight  # dropped while waiting
    kinds = ("late", "superseded", "closed")
    assert closed + unknown == sum(total.dropped.get(k, 0) for k in kinds)


def test_what_was_fades_to_a_third_in_two_seconds():
    total, half = Faded(), math.exp(-0.5)
    assert total(0.0) == total(9.0) == 0
    total.add(2, 0.0)
    total.add(1, 1.0)
    assert total(1.0) == total(0.5) == pytest.approx(2 * half + 1)  # the past is not undone
    assert total(3.0) == pytest.approx((2 * half + 1) * math.exp(-1))


def test_costs_keep_the_newest_and_survive_a_file(tmp_path):
    costs = Costs({1: [0.001] * 10, 4: [0.002, 0.004]})
    assert costs.mean(4) == pytest.approx(0.003) and costs.high(4) == 0.004
    costs.save(tmp_path / "c.json")
    again = Costs.load(tmp_path / "c.json")
    assert again.buckets == (1, 4) and again.mean(1) == costs.mean(1)
    for _ in range(64):
        costs.add(1, 0.5)
    assert costs.mean(1) == 0.5
    assert [costs.bucket(n) for n in (1, 2, 4, 9)] == [1, 4, 4, 4]
    assert costs.chunks(10, 4) == [4, 4, 4] and costs.chunks(9, 4) == [4, 4, 1]
    # by the mean a step of four is the cheapest for three frames, by what it may take it is not
    uneven = Costs({1: [0.002], 4: [0.001, 0.008]})
    assert uneven.cheapest(3) == pytest.approx(0.0045)
    assert uneven.cheapest(3, high=True) == pytest.approx(0.006)
    assumed = Costs.load("linear:4,0.5")
    assert assumed.mean(8) == pytest.approx(0.008)
    assert assumed.buckets == (1, 2, 4, 8, 16, 32, 64)
    for wrong in ("linear:4", "nowhere.json", tmp_path):
        with pytest.raises(ValueError, match="give a JSON file"):
            Costs.load(wrong)
    with pytest.raises(ValueError, match="bucket 2"):
        Costs({2: []})
