"""The simulator against arithmetic, and the promises of the scheduler under load."""

import dataclasses
import json
import subprocess
import sys

import pytest

from streamzoo.streaming.engine import Costs, Scheduler
from streamzoo.streaming.engine.queues import LATE
from streamzoo.streaming.engine.simulation import Load, curve, most_streams, simulate
from streamzoo.streaming.engine.simulator import main

COSTS = Costs.linear(0.004, 0.002, (1, 2, 4, 8))
OVER = Load(40, fps=15, seconds=4, depth=1)  # 400 frames/s are the most, 600 come


def test_one_stream_is_arithmetic():
    outcome = simulate(Load(1, fps=10, jitter=0, seconds=5), COSTS)
    assert outcome.books.received == outcome.books.completed == 50
    for value in (outcome.p50, outcome.p99, outcome.worst):
        assert value == pytest.approx(0.006)
    assert outcome.utilisation == [pytest.approx(0.06, rel=0.02)]
    assert outcome.fps == (10, 10, 10) and outcome.batch == 1


def test_a_burst_is_arithmetic():
    """15 frames at once of one stream, lossless: the k-th is answered after k steps."""
    load = Load(1, fps=15, jitter=0, bursty=1, seconds=3, policy="lossless", capacity=15, depth=1)
    outcome = simulate(load, Costs({1: [0.011]}))
    assert outcome.worst == pytest.approx(0.165) and outcome.p50 == pytest.approx(0.088)
    assert outcome.books.late * 3 == outcome.books.completed  # the 11th to 15th, after 120 ms


def test_the_same_seed_gives_the_same_figures():
    costs = Costs({1: [0.004, 0.005, 0.009], 8: [0.01, 0.02]})
    first, again, other = (
        simulate(Load(20, seconds=2, bursty=0.3, seed=s), costs) for s in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("policy", ["latest", "lossless", "events"])
def test_overload_adds_up(policy):
    outcome = simulate(dataclasses.replace(OVER, policy=policy), COSTS)
    books = outcome.books
    assert books.balanced and books.in_flight == 0
    assert books.received + books.refused == 40 * 60
    assert max(outcome.utilisation) > 0.99
    if policy == "lossless":
        # Credits run out instead: what is served, and what waits at the end, is all.
        assert not books.dropped and books.refused >= 40 * 60 - 4 * 400 - 40 * 8
    else:
        assert not books.refused and sum(books.dropped.values()) > 600
        # Shed before, not served late; and what is served fills the machine.
        assert outcome.p99 <= OVER.budget and books.late <= 0.01 * books.completed
        assert books.completed > 0.9 * 400 * OVER.seconds


@pytest.mark.parametrize("seed", range(3))
def test_shedding_never_skips_an_event_and_keeps_the_budget(seed):
    """Half as much again as can be served, a tenth of it events: the rest is shed for them."""
    load = dataclasses.replace(OVER, policy="events", events=0.1, seconds=6, seed=seed)
    outcome = simulate(load, COSTS)
    came, served = outcome.events
    assert came == served > 200 and outcome.p99 <= load.budget
    assert not outcome.books.refused and outcome.books.dropped[LATE] > 500
    came, served = simulate(dataclasses.replace(load, policy="latest"), COSTS).events
    assert served < 0.8 * came  # who does not look at the mark loses as many as of all


def test_admission_control_keeps_its_word():
    """What it lets in is served in time, whole; and it is not timid: the load is near its limit."""
    for costs in (COSTS, Costs({1: [0.02], 4: [0.03, 0.032]}), Costs.linear(0, 0.005, (1, 2))):
        load = Load(100, fps=10, seconds=4, admit=True, accelerators=2, depth=1)
        outcome = simulate(load, costs)
        assert 0 < outcome.refused < 100 and outcome.reason and "refused" in outcome.reason
        assert outcome.worst <= load.budget and not outcome.books.dropped
        held = 100 - outcome.refused
        assert held >= 0.6 * most_streams(dataclasses.replace(load, seconds=2), costs)


def test_streams_are_placed_evenly_and_more_accelerators_hold_more():
    outcome = simulate(Load(26, seconds=2, accelerators=4), COSTS)
    assert len(outcome.utilisation) == 4 and min(outcome.utilisation) > 0
    load = Load(1, seconds=2)
    most = most_streams(load, COSTS)
    assert most_streams(dataclasses.replace(load, accelerators=3), COSTS) == 3 * most
    assert simulate(dataclasses.replace(load, streams=most), COSTS).holds(load.budget)
    assert not simulate(dataclasses.replace(load, streams=most + 1), COSTS).holds(load.budget)
    assert most_streams(dataclasses.replace(load, slots=5), COSTS) == 5
    rows = curve(dataclasses.replace(load, streams=most), COSTS, points=3)
    assert rows[-1][1].p99 > rows[0][1].p99


def test_the_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    costs, out, picture = tmp_path / "c.json", tmp_path / "o.json", tmp_path / "p.png"
    COSTS.save(costs)
    args = f"--streams 12 --accelerators 2 --seconds 1 --costs {costs} --json {out} --most"
    assert main([*args.split(), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    for word in ("p99", "utilisation", "180 received = 180 completed", "dropped      none"):
        assert word in printed
    record = json.loads(out.read_text())
    assert record["outcome"]["books"]["received"] == 180 and record["most"] > 12
    assert picture.stat().st_size > 5000
    assert main(["--streams", "0", "--costs", "linear:4,1"]) == 2
    assert "streams=0" in capsys.readouterr().err
    assert main(["--streams", "1", "--costs", "nowhere.json"]) == 2


@pytest.mark.slow
def test_the_module_runs():
    name = "streamzoo.streaming.engine.simulator"
    run = subprocess.run([sys.executable, "-m", name, "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and "example:" in run.stdout and not run.stderr


@pytest.mark.parametrize("policy", ["latest", "lossless", "events"])
@pytest.mark.parametrize("streams, fps, seed", [(27, 30, 0), (53, 15, 1), (20, 40, 2)])
def test_twice_too_much_is_shared_evenly(policy, streams, fps, seed):
    """Equal streams: each gets the same, and together as much as the machine can do."""
    load = Load(streams, fps=fps, seconds=10, policy=policy, seed=seed, jitter=0.0)
    outcome = simulate(load, COSTS)
    lowest, mean, highest = outcome.fps
    assert highest - lowest <= 0.1 * mean and outcome.books.balanced
    assert outcome.books.completed >= 0.95 * 400 * load.seconds


def test_after_an_overload_deadlines_count_again():
    """Two streams of 20 and 200 ms: the patient one has had less, and still comes second."""
    scheduler = Scheduler(Costs({1: [0.01]}), 3)
    for name, budget in (("patient", 0.2), ("urgent", 0.02), ("flood", 0.02)):
        scheduler.admit(name, 10, budget=budget, check=False)

    def step(now):
        batch = scheduler.next(now)
        scheduler.done(batch, now + 0.01)
        return batch.rows[0][0].name

    now = 0.0
    for _ in range(100):  # 200 frames a second where 100 can be served
        scheduler.offer("flood", None, now)
        scheduler.offer("flood", None, now)
        step(now)
        now += 0.01
    assert scheduler.overload(now)
    scheduler.offer("urgent", None, now)  # one frame, and it goes before those of the flood
    assert step(now) == "urgent"
    scheduler.remove("flood")
    now += 60
    scheduler.offer("patient", None, now)
    scheduler.offer("urgent", None, now)
    assert not scheduler.overload(now) and step(now) == "urgent" and step(now + 0.01) == "patient"
