"""The engine's branches on a simulated clock: its latency target holds where one branch misses it,
every decision is ApproxDet's, and what is worth more is served first."""

import dataclasses
import itertools

import numpy as np
import pytest

from streamzoo.streaming.adapt import branches
from streamzoo.streaming.adapt.branch_scheduler import Branch, BranchScheduler
from streamzoo.streaming.engine import Costs, Scheduler
from streamzoo.streaming.engine.admission import Demand
from streamzoo.streaming.engine.gears import Gear
from streamzoo.streaming.engine.governor import Governor
from streamzoo.streaming.engine.queues import SKIPPED
from streamzoo.streaming.engine.simulation import Load, simulate

from .test_adapt import TRACKERS, needs_goldens, read

BUCKETS = (1, 2, 4, 8)


def gears():
    """What-if branches: 3 sizes, 2 precisions, 3 intervals; seconds fall with each of them."""
    found = []
    sizes, precisions = (224, 176, 128), ((1.0, 0.0), (0.6, 0.01))
    for number, (size, (pace, loss)) in enumerate(itertools.product(sizes, precisions)):
        part = (size / 224) ** 2 * pace
        costs = Costs.linear(0.002, 0.005 * part, BUCKETS)
        for every in (1, 2, 4):
            accuracy = 0.80 - 0.1 * (224 - size) / 96 - loss - 0.02 * (every - 1)
            found.append(Gear(f"{size} {pace} {every}", accuracy, costs, every, number))
    return found


GEARS = gears()
LOAD = Load(
    8, fps=15, seconds=30, depth=1, budget=0.12,
    contention=((10, 1.0), (10, 2.5), (10, 1.5)),
)  # fmt: skip


def fixed(load, slow):
    """The most accurate gear that is enough at so much contention, alone."""
    demands = [Demand(load.fps, load.budget)] * load.streams
    governor = Governor(GEARS)
    needs = slow * np.asarray(governor.needs(demands))
    able = [k for k in range(len(GEARS)) if needs[k] <= 1 / governor.margin]
    return GEARS[max(able, key=lambda k: GEARS[k].accuracy)]


@pytest.mark.parametrize("seed", range(3))
def test_the_latency_target_holds_where_one_branch_misses_it(seed):
    load = dataclasses.replace(LOAD, seed=seed)
    quick, safe = fixed(load, 1.0), fixed(load, 2.5)
    one = simulate(load, quick.costs, [quick])
    chosen, careful = simulate(load, quick.costs, GEARS), simulate(load, quick.costs, [safe])
    assert one.missed > 0.05 and chosen.missed < 0.01 < one.missed / 5
    assert chosen.p99 <= load.budget
    assert chosen.accuracy > careful.accuracy + 0.005, "and not by the worst case's branch"
    assert chosen.books.balanced and chosen.books.in_flight == 0


@needs_goldens
def test_every_decision_is_approxdets():
    """The scheduler that watch runs, told of contention by what frames took: all 56 decisions."""
    z = dict(np.load(branchfile()))
    kinds = z["configs"][:, 3]
    start, track = z["init6"][kinds], z["track6"][kinds]
    start[kinds == 4], track[kinds == 4] = np.inf, np.inf  # its slow tracker is switched off
    table = [
        Branch((1, 1), 1.0, int(every), "fp32", 1.0, float(dnn * every), float(t), float(s))
        for every, dnn, t, s in zip(z["configs"][:, 0], z["dnn"], track, start, strict=True)
    ]
    count = len(table)
    rows = read("approxdet.json")["rows"]
    assert count == 1176 and len(rows) == 56
    # a branch that has run, and whose two parts both take time
    ran = next(k for k in range(count) if table[k].every > 1 and np.isfinite(table[k].between))
    switch = np.broadcast_to(z["switch"], (count, count))
    scheduler = BranchScheduler(table, 1.0, switch=switch)
    for row in rows:
        scheduler.target, scheduler.chosen = row["slo"], ran
        scheduler.accuracy = z["acc_videowise"] if row["movements"] >= 300 else z["acc"]
        for _ in range(3):
            scheduler.took((1 + row["gpu"]) * table[ran].compute)
            scheduler.took((1 + row["cpu"]) * table[ran].between, computed=False)
        chosen = scheduler.decide()
        interval, shape, proposals, kind = z["configs"][chosen]
        tracker = TRACKERS[0] if interval == 1 else TRACKERS[kind]
        assert [interval, shape, proposals, *tracker] == row["config"], row


def branchfile():
    from .test_adapt import GOLDENS

    return GOLDENS / "approxdet.npz"


def test_the_governor_decides_by_the_same_rule():
    """Its choice is ``choose`` of what each gear needs, at every contention; the rule is golden."""
    demands = [Demand(15, 0.12)] * 8
    for slow in (1.0, 1.5, 2.5, 6.0, 50.0):
        governor = Governor(GEARS)
        for _ in range(3):
            governor.took(0, 4, slow * GEARS[0].costs.mean(4))
        assert governor.contention == pytest.approx(slow)
        governor.next(demands)
        needs = governor.needs(demands)
        want = branches.choose([g.accuracy for g in GEARS], needs, 1.0)
        assert governor.chosen == want
        assert governor.gear.costs is not GEARS[0].costs or slow < 2
        # what it says that steps cost now is what they cost
        assert governor.costs().mean(4) == pytest.approx(slow * governor.gear.costs.mean(4))
    with pytest.raises(ValueError, match="0 gears"):
        Governor([])


def test_intervals_leave_out_frames_but_never_events_or_promised_ones():
    slowest = [Gear("only", 0.5, Costs({1: [0.001]}), every=3)]
    for policy, event, computed in (
        ("latest", False, 3),
        ("events", True, 9),
        ("lossless", False, 9),
    ):
        scheduler = Scheduler(Costs({1: [0.001]}), 1, governor=Governor(slowest))
        scheduler.admit("cam", 30, policy=policy, capacity=16, check=False)
        for n in range(9):
            assert scheduler.offer("cam", n, n / 30, event=event).index == n
            if batch := scheduler.next(n / 30):
                scheduler.done(batch, n / 30 + 0.001, 0.001)
        books = scheduler.ledger.total()
        assert books.completed == computed and books.balanced
        assert books.dropped.get(SKIPPED, 0) == 9 - computed


def test_admission_counts_on_the_fastest_gear():
    """Streams that the most accurate gear could not hold are let in if another one can."""
    exact = [g for g in GEARS if g.variant == 0 and g.every == 1]
    most = {}
    for name, some in (("exact", exact), ("all", GEARS)):
        scheduler = Scheduler(some[0].costs, 1000, governor=Governor(some))
        count = 0
        while scheduler.refusal(Demand(15, 0.2)) is None and count < 200:
            scheduler.admit(count, 15, budget=0.2)
            count += 1
        most[name] = count
    assert most["all"] > 2 * most["exact"] > 2


def test_goodput_earns_more_than_fairness_when_not_all_can_be_in_time():
    load = Load(40, fps=15, seconds=4, depth=1, worths=(5.0, 1.0, 1.0, 1.0))
    costs = Costs.linear(0.004, 0.002, (1, 2, 4, 8))
    earned = {}
    for order in ("fair", "goodput"):
        outcome = simulate(dataclasses.replace(load, order=order), costs)
        worth = lambda n: load.worths[n % 4]
        earned[order] = sum(worth(n) * count for n, count in outcome.in_time.items())
        assert outcome.books.balanced
    assert earned["goodput"] > 1.15 * earned["fair"]
    with pytest.raises(ValueError, match="order 'best'"):
        Scheduler(costs, 1, order="best")


def test_equal_worth_is_served_alike():
    load = Load(40, fps=15, seconds=4, depth=1, order="goodput")
    outcome = simulate(load, Costs.linear(0.004, 0.002, (1, 2, 4, 8)))
    counts = [outcome.in_time[n] for n in range(40)]
    assert min(counts) > 0.7 * max(counts)
