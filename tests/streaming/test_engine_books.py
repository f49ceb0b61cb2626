"""The engine's books and queues: every frame is somewhere, and only there."""

import random
import threading

import pytest

from streamzoo.streaming.engine.ledger import Account, Ledger, LedgerError, Snapshot
from streamzoo.streaming.engine.queues import Item, make_queue


def item(index, event=False, deadline=1.0):
    return Item(index, 0.0, deadline, event)


@pytest.mark.parametrize("seed", range(5))
def test_the_law_holds_after_every_move(seed):
    rng, account = random.Random(seed), Account()
    waiting = running = completed = late = received = 0
    dropped = {}
    for _ in range(400):
        move = rng.choice(("receive", "start", "complete", "drop", "drop running"))
        if move == "receive":
            account.receive()
            received, waiting = received + 1, waiting + 1
        elif move in ("start", "drop"):
            if not waiting:
                with pytest.raises(LedgerError, match="no frame is waiting"):
                    account.start() if move == "start" else account.drop("x")
                continue
            waiting -= 1
            if move == "start":
                account.start()
                running += 1
            else:
                account.drop("full")
                dropped["full"] = dropped.get("full", 0) + 1
        elif not running:
            with pytest.raises(LedgerError, match="no frame is running"):
                account.complete()
        elif move == "complete":
            was_late = rng.random() < 0.5
            account.complete(was_late)
            running, completed, late = running - 1, completed + 1, late + was_late
        else:
            account.drop("error", running=True)
            running -= 1
            dropped["error"] = dropped.get("error", 0) + 1
        books = account.snapshot()
        assert books.balanced
        assert books == Snapshot(received, completed, waiting, running, dropped, late)


def test_the_law_holds_at_every_moment_of_many_threads():
    ledger = Ledger()
    accounts = [ledger.open(k) for k in range(3)]
    stop, wrong = threading.Event(), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(300):
            account = rng.choice(accounts)
            account.receive()
            if rng.random() < 0.3:
                account.drop("full")
                continue
            account.start()
            account.drop("error", running=True) if rng.random() < 0.3 else account.complete()

    def watch():
        while not stop.is_set():
            wrong.extend(b for b in ledger.report().values() if not b.balanced)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    watcher.join()
    assert not wrong
    total = ledger.total()
    assert total.balanced and total.received == 4 * 300 and total.in_flight == 0


def test_a_closed_stream_stays_in_the_sum_with_what_still_runs():
    ledger = Ledger()
    account = ledger.open("a")
    account.receive()
    account.start()
    ledger.close("a")
    again = ledger.open("a")  # the name is free
    again.receive()
    assert ledger.report() == {"a": Snapshot(received=1, waiting=1)}
    assert ledger.total() == Snapshot(received=2, waiting=1, running=1)
    account.drop("closed", running=True)
    assert ledger.total() == Snapshot(received=2, waiting=1, dropped={"closed": 1})
    with pytest.raises(LedgerError, match="'a' has an account"):
        ledger.open("a")


@pytest.mark.parametrize("policy", ["latest", "lossless", "events"])
@pytest.mark.parametrize("seed", range(4))
def test_queues_keep_their_promises(policy, seed):
    """Against a list that is filtered anew after every move."""
    rng = random.Random(seed)
    capacity = rng.randint(1, 5)
    queue, held = make_queue(policy, capacity), []
    for index in range(300):
        if rng.random() < 0.6:
            new = item(index, rng.random() < 0.4, rng.random())
            events = sum(i.event for i in held)
            want = {"latest": capacity, "lossless": capacity - len(held)}.get(
                policy, capacity - events
            )
            assert queue.credits == want
            taken, dropped = queue.offer(new)
            assert taken == (want > 0)
            if policy == "latest":
                gone = [*held, new][:-capacity]
            elif policy == "events" and taken and len(held) == capacity:
                gone = [next(i for i in held if not i.event)]
            else:
                gone = []
            held = [i for i in [*held, new] if i not in gone and (taken or i is not new)]
            assert dropped == [(i, "superseded") for i in gone]
        elif rng.random() < 0.7:
            if held:
                assert queue.head is held[0] and queue.last is held[-1]
                assert queue.pop() is held.pop(0)
        else:
            limit = rng.random()
            spared = {"latest": lambda i: False, "lossless": lambda i: True}.get(
                policy, lambda i: i.event
            )
            gone = [i for i in held if i.deadline < limit and not spared(i)]
            assert queue.shed(limit) == [(i, "late") for i in gone]
            held = [i for i in held if i not in gone]
        assert list(queue) == held and len(queue) <= capacity
        if policy == "lossless":
            assert len(held) + queue.credits == capacity
    assert queue.clear() == [(i, "closed") for i in held] and not len(queue)


def test_a_queue_says_what_is_wrong():
    with pytest.raises(ValueError, match="'newest': it is one of latest, lossless, events"):
        make_queue("newest")
    with pytest.raises(ValueError, match="room for at least 1"):
        make_queue("latest", 0)
