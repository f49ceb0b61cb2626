"""The directory of a cluster and its scaling: laws, by random histories and by cases."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamzoo.streaming.cluster import (
    Directory,
    Full,
    Held,
    Load,
    Scaling,
    Settling,
    wanted,
)
from streamzoo.streaming.cluster.launch import Policy

LEASE, HOLD, KEEP = 2.0, 5.0, 60.0
REPLICAS = ("a", "b", "c")
SIDS = tuple(f"s{i}" for i in range(7))
GROUPS = (None, None, "g")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@dataclasses.dataclass
class Engine:
    """What a replica believes: sessions with the leases that it was told."""

    slots: int
    held: dict[str, Held] = dataclasses.field(default_factory=dict)
    draining: bool = False


class History(RuleBasedStateMachine):
    """Clients, replicas and the directory come, go, die and stall in any order."""

    @initialize(slots=st.lists(st.integers(1, 3), min_size=3, max_size=3))
    def begin(self, slots):
        self.clock, self.generation = Clock(), 1
        self.directory = self.fresh()
        self.engines = {name: Engine(n) for name, n in zip(REPLICAS, slots, strict=False)}
        self.last = {}  # sid: highest epoch that anybody was given
        self.owners = {}  # (sid, epoch): replica

    def fresh(self):
        return Directory(self.generation, lease=LEASE, hold=HOLD, keep=KEEP, clock=self.clock)

    def given(self, sid, epoch, replica):
        """Somebody was told that it owns a session."""
        assert self.owners.setdefault((sid, epoch), replica) == replica, "two owners at one epoch"
        self.last[sid] = max(self.last.get(sid, 0), epoch)

    @rule(name=st.sampled_from(REPLICAS))
    def beat(self, name):
        engine = self.engines[name]
        told = dict(engine.held)
        beat = self.directory.heartbeat(name, f"http://{name}", Load(engine.slots), told)
        assert set(beat.leases) | set(beat.lost) == set(told)
        assert not set(beat.leases) & set(beat.lost)
        for sid, lease in beat.leases.items():
            assert lease.epoch >= told[sid].epoch, "an epoch went back"
            self.given(sid, lease.epoch, name)
        for sid in beat.lost:
            owner = self.directory.report()["sessions"][sid]
            assert owner["replica"] != name
            assert owner["epoch"] > told[sid].epoch or told[sid].epoch == 0
        engine.held = dict(beat.leases)

    @rule(sid=st.sampled_from(SIDS), group=st.sampled_from(GROUPS), known=st.booleans(),
          avoid=st.sets(st.sampled_from(REPLICAS), max_size=1), arrives=st.booleans())  # fmt: skip
    def place(self, sid, group, known, avoid, arrives):
        before = self.directory.report()
        was = before["sessions"].get(sid)
        try:
            place = self.directory.place(sid, group, known=known, avoid=avoid)
        except Full:
            assert group or not [
                n for n, r in before["replicas"].items()
                if r["free"] > 0 and not r["draining"] and n not in avoid
            ]  # fmt: skip
            return
        except Settling:
            assert known and was is None
            return
        live = was and was["replica"] in before["replicas"]
        if live and not before["replicas"][was["replica"]]["draining"] and was["held"]:
            assert (place.replica, place.epoch) == (was["replica"], was["epoch"]), "it was moved"
        if place.moved or not was:
            free = before["replicas"][place.replica]["free"]
            assert free >= 1, "more sessions than slots"
            assert not before["replicas"][place.replica]["draining"]
            assert place.epoch > self.last.get(sid, 0)
            if not (group or (was and was["group"])):
                others = before["replicas"].items()
                assert free == max(
                    r["free"] for n, r in others if not r["draining"] and n not in avoid
                )
        self.given(sid, place.epoch, place.replica)
        if arrives:
            self.engines[place.replica].held.setdefault(sid, Held())

    @rule(sid=st.sampled_from(SIDS), name=st.sampled_from(REPLICAS))
    def end(self, sid, name):
        self.engines[name].held.pop(sid, None)

    @rule(name=st.sampled_from(REPLICAS))
    def drain(self, name):
        self.directory.drain(name)

    @rule(name=st.sampled_from(REPLICAS), told=st.booleans())
    def die(self, name, told):
        if told:
            self.directory.leave(name)
        self.engines[name].held.clear()

    @rule(seconds=st.sampled_from((0.3, 1.0, 2.5, 6.0, 70.0)))
    def wait(self, seconds):
        self.clock.now += seconds

    @precondition(lambda self: self.generation < 4)
    @rule()
    def restart(self):
        self.generation += 1
        self.directory = self.fresh()

    @invariant()
    def who_is_up_has_no_lease_twice(self):
        if hasattr(self, "directory"):
            report = self.directory.report()
            epochs = [s["epoch"] for s in report["sessions"].values()]
            assert len(epochs) == len(set(epochs))
            for name, replica in report["replicas"].items():
                held = sum(s["replica"] == name and s["held"] for s in report["sessions"].values())
                kept = sum(
                    s["replica"] == name and not s["held"] for s in report["sessions"].values()
                )
                assert kept == 0 or replica["free"] == self.engines[name].slots - held - kept


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def up(clock, slots=(2, 2), **options):
    directory = Directory(lease=LEASE, hold=HOLD, keep=KEEP, clock=clock, **options)
    for name, n in zip(REPLICAS, slots, strict=False):
        directory.heartbeat(name, f"http://{name}", Load(n), {})
    return directory


def test_sessions_go_where_most_slots_are_free_and_no_further():
    directory = up(Clock(), (1, 3))
    assert [directory.place(sid).replica for sid in SIDS[:4]].count("b") == 3
    with pytest.raises(Full, match="2 replicas are without a free slot"):
        directory.place("more")
    assert directory.report()["waiting"] == 1
    with pytest.raises(Full, match="no replica is up"):
        Directory(clock=Clock()).place("s")


def test_asking_again_and_never_coming_keeps_no_slot():
    clock = Clock()
    directory = up(clock, (1,))
    directory.place("s0")
    for _ in range(int(HOLD)):
        clock.now += 0.99
        directory.heartbeat("a", "http://a", Load(1), {})
        assert directory.place("s0").replica == "a"
    clock.now += 0.2
    directory.heartbeat("a", "http://a", Load(1), {})
    assert directory.place("s1").replica == "a"  # a newcomer's turn
    with pytest.raises(Full):
        directory.place("s0")


def test_slots_that_are_kept_for_one_client_are_a_share():
    clock = Clock()
    directory = up(clock, (4, 4))
    for sid in SIDS[:3]:
        directory.place(sid, client="me", share=3)
    with pytest.raises(Full, match="3 slots are kept for you"):
        directory.place("more", client="me", share=3)
    assert directory.report()["waiting"] == 0  # no reason to add a replica
    directory.place(SIDS[0], client="me", share=3)  # one that it has
    directory.place("other", client="you", share=3)
    for name in REPLICAS[:2]:  # it comes, and may ask for more
        sessions = directory.report()["sessions"].items()
        held = {sid: Held() for sid, session in sessions if session["replica"] == name}
        directory.heartbeat(name, f"http://{name}", Load(4), held)
    directory.place("more", client="me", share=3)


def test_a_slot_that_nobody_came_for_is_free_again():
    clock = Clock()
    directory = up(clock, (1,))
    directory.place("s0")
    clock.now += HOLD + 0.1
    directory.heartbeat("a", "http://a", Load(1), {})
    assert directory.place("s1").replica == "a"


def test_what_a_silent_replica_had_goes_elsewhere_and_its_word_counts_no_more():
    clock = Clock()
    directory = up(clock)
    first = directory.place("s")
    beat = directory.heartbeat("a", "http://a", Load(2), {"s": Held()})
    assert beat.leases == {"s": Held(first.epoch)}
    clock.now += LEASE + 0.1
    directory.heartbeat("b", "http://b", Load(2), {})
    second = directory.place("s", known=True)
    assert second.moved and second.replica == "b" and second.epoch > first.epoch
    stale = directory.heartbeat("a", "http://a", Load(2), {"s": Held(first.epoch)})
    assert stale.lost == ["s"] and not stale.leases
    assert directory.place("s").replica == "b"


def test_a_silent_replica_whose_sessions_nobody_asked_for_keeps_them():
    clock = Clock()
    directory = up(clock)
    place = directory.place("s")
    directory.heartbeat("a", "http://a", Load(2), {"s": Held()})
    clock.now += 10 * LEASE
    beat = directory.heartbeat("a", "http://a", Load(2), {"s": Held(place.epoch)})
    assert beat.leases["s"].epoch == place.epoch


def test_a_drained_replica_gets_nothing_and_its_sessions_may_leave():
    directory = up(Clock())
    place = directory.place("s")
    directory.heartbeat("a", "http://a", Load(2), {"s": Held()})
    directory.drain("a")
    assert [directory.place(f"n{i}").replica for i in range(1)] == ["b"]
    moved = directory.place("s")
    assert moved.replica == "b" and moved.moved and moved.epoch > place.epoch


def test_a_replica_that_refused_is_avoided_unless_it_has_the_session():
    directory = up(Clock())
    assert directory.place("s").replica == "a"
    assert directory.place("s", avoid={"a"}).replica == "b"
    directory.heartbeat("b", "http://b", Load(2), {"s": Held()})
    assert directory.place("s", avoid={"b"}).replica == "b"


def test_a_group_stays_together_also_when_it_moves():
    clock = Clock()
    directory = up(clock, (4, 3))
    places = [directory.place(f"g{i}", "cameras") for i in range(3)]
    assert {p.replica for p in places} == {"a"}
    held = {f"g{i}": Held() for i in range(3)}
    leases = directory.heartbeat("a", "http://a", Load(4), held).leases
    assert all(lease.group == "cameras" for lease in leases.values())
    directory.leave("a")
    assert {directory.place(f"g{i}", known=True).replica for i in range(3)} == {"b"}
    with pytest.raises(Full, match="group 'cameras' is on a replica without a free slot"):
        directory.place("g3", "cameras")


def test_a_new_directory_learns_from_heartbeats_and_waits_for_them():
    clock = Clock()
    old = up(clock)
    place = old.place("s", "g")
    lease = old.heartbeat("a", "http://a", Load(2), {"s": Held()}).leases["s"]
    new = Directory(2, lease=LEASE, hold=HOLD, keep=KEEP, clock=clock)
    new.heartbeat("b", "http://b", Load(2), {})
    with pytest.raises(Settling):
        new.place("s", known=True)
    assert new.heartbeat("a", "http://a", Load(2), {"s": lease}).leases["s"] == lease
    again = new.place("s", known=True)
    assert (again.replica, again.epoch) == ("a", place.epoch)
    assert new.place("t", "g").replica == "a"
    assert new.place("u").epoch > 2 << 32 > place.epoch


def test_of_two_that_claim_a_session_the_higher_epoch_has_it():
    directory = up(Clock())
    directory.heartbeat("a", "http://a", Load(2), {"s": Held(5)})
    assert directory.heartbeat("b", "http://b", Load(2), {"s": Held(6)}).lost == []
    assert directory.heartbeat("a", "http://a", Load(2), {"s": Held(5)}).lost == ["s"]


def test_a_session_without_a_slot_leaves_it_to_others():
    directory = up(Clock(), (1,))
    directory.place("s")
    directory.heartbeat("a", "http://a", Load(1, idle=1), {"s": Held()})
    assert directory.place("t").replica == "a"


def test_numbers_that_make_no_sense():
    options: dict[str, Any]
    for options in ({"generation": 0}, {"lease": 0}, {"hold": -1}, {"keep": 0}):
        with pytest.raises(ValueError, match="above 0"):
            Directory(**options)
    with pytest.raises(ValueError, match="low <= high"):
        Scaling(high=0.5, low=0.6)


# Scaling.

COUNTS = st.tuples(st.integers(1, 12), st.integers(0, 80), st.integers(1, 16))


def spread(replicas, sessions, slots):
    """Sessions over replicas, evenly, none of them slow."""
    return [
        (Load(slots), min(slots, sessions // replicas + (i < sessions % replicas)))
        for i in range(replicas)
    ]


@given(COUNTS)
@settings(deadline=None)
def test_scaling_comes_to_rest_at_enough_replicas(counts):
    replicas, sessions, slots = counts
    scaling, seen = Scaling(), []
    for _ in range(40):
        inside = sum(used for _, used in spread(replicas, sessions, slots))
        seen.append(replicas)
        replicas = wanted(spread(replicas, sessions, slots), sessions - inside)
    assert replicas >= max(1, math.ceil(sessions / slots))
    assert sessions <= scaling.high * replicas * slots + 1e-6
    assert seen[-1] == replicas == wanted(spread(replicas, sessions, slots))
    steps = [b - a for a, b in zip(seen, seen[1:], strict=False) if b != a]
    assert all(s > 0 for s in steps) or all(s < 0 for s in steps), "it grew and shrank"


@given(COUNTS, st.integers(1, 5))
@settings(deadline=None)
def test_more_demand_never_wants_fewer(counts, more):
    replicas, sessions, slots = counts
    loads = spread(replicas, sessions, slots)
    assert wanted(loads, more) >= wanted(loads)


@pytest.mark.parametrize(
    "load, used, want",
    [
        (Load(8, lateness=1.5), 2, 3),  # answers come too late
        (Load(8, queued=9), 2, 3),  # frames pile up
        (Load(8, queued=8), 2, 1),
        (Load(8, lateness=0.9), 2, 1),
        (Load(8, lateness=9.0, queued=50), 0, 1),  # of sessions that are gone
    ],
)
def test_a_slow_replica_is_helped(load, used, want):
    assert wanted([(load, used), (Load(8), 0)]) == want


def test_no_load_is_known():
    assert wanted([]) == 1


def recorded(**metrics):
    """What Serve hands to a policy: {metric: {replica: value}}, of two replicas."""
    return SimpleNamespace(
        aggregated_metrics={k: dict(zip("ab", v, strict=False)) for k, v in metrics.items()},
        running_replicas=["a", "b"],
        target_num_replicas=2,
    )


def test_the_policy_gives_serve_what_the_replicas_have_recorded():
    quiet = {"idle": (0, 0), "queued": (0, 0), "lateness": (0, 0), "waiting": (0, 0)}
    half = recorded(slots=(4, 4), used=(2, 2), **quiet)
    assert Policy(high=1.0, low=1.0)(half) == (1, {})
    assert Policy(high=0.5, low=0.5)(half) == (2, {})
    full = recorded(slots=(4, 4), used=(4, 4), **quiet)
    assert Policy(high=1.0, low=1.0)(full) == (2, {})
    full.aggregated_metrics["waiting"] = {"a": 0.2, "b": 0.0}  # a mean over the last seconds
    assert Policy(high=1.0, low=1.0)(full) == (3, {})
    full.aggregated_metrics["lateness"] = {"a": 0.0, "b": 1.2}
    assert Policy(late=1.1)(full)[0] > Policy(late=1.3, high=1.0, low=1.0)(half)[0]
    del half.aggregated_metrics["used"]["b"]  # it is starting
    assert Policy()(half) == (2, {})
