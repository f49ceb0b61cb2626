"""Sessions without a network: numbers, credits, clients that vanish and come back."""

import asyncio
from collections import deque

import numpy as np
import pytest

import streamzoo
from streamzoo.streaming import Step
from streamzoo.streaming.serve import Limits, ServeError, Sessions, Spec
from streamzoo.streaming.serve.recent import Recent
from streamzoo.streaming.serve.spec import Start

from . import tiny
from .serving import STEP, alone, engine, logits, run
from .stub import video

LOSSLESS = Spec(fps=15, budget=60.0, policy="lossless", capacity=8)


async def feed(session, frames, first=0):
    for index, frame in enumerate(frames, first):
        while session.limit <= index:
            await asyncio.sleep(0.001)
        assert session.offer(index, frame, time=index / 15)


async def collect(attachment, count, acks=True):
    got, missed = [], 0
    while len(got) < count:
        gone, records = await attachment.read()
        missed += gone
        got += records
        if acks and records:
            attachment.session.ack(records[-1]["seq"])
    return missed, got


def outputs(records):
    return [r["output"] for r in records]


def test_recent_results_against_a_plain_list():
    rng = np.random.default_rng(0)
    for keep in (1, 3, 8):
        recent, every, cursor = Recent(keep), [], 0
        for _ in range(300):
            if rng.random() < 0.7:
                every.append({"index": len(every)})
                assert recent.add(dict(every[-1])) == len(every)
            else:
                missed, records = recent.after(cursor)
                assert missed == max(0, len(every) - keep - cursor)
                assert [r["index"] for r in records] == list(range(cursor + missed, len(every)))
                assert [r["seq"] for r in records] == [r["index"] + 1 for r in records]
                cursor = len(every) - int(rng.integers(0, 2)) if every else 0
                recent.ack(cursor)
                assert recent.unacked == len(every) - recent.acked
    with pytest.raises(ValueError, match="room for 0 results"):
        Recent(0)


def test_results_by_capture_time_against_a_search_and_never_older_than_shown():
    """Captures come late, twice, and from a clock that was set back."""
    rng = np.random.default_rng(0)
    for keep in (1, 4, 30):
        recent, every, shown = Recent(keep), [], -np.inf
        for step in range(300):
            time = float(round(step + rng.normal(0, 5))) - 40 * (step > 150)
            every.append({"time": time, "seq": step + 1})
            recent.add({"time": time})
            asked = time + float(rng.integers(-10, 10))
            kept = [r for r in every[-keep:] if shown <= r["time"] <= asked]
            want = max(kept, key=lambda r: (r["time"], r["seq"]), default=None)
            got = recent.at(asked, shown)
            assert got == want
            if got is not None and rng.random() < 0.2:
                assert got["time"] >= shown
                shown = got["time"]


@pytest.fixture(params=["stub", pytest.param("student", marks=pytest.mark.slow)])
def step(request):
    if request.param == "stub":
        return STEP
    request.getfixturevalue("home")
    model, params = streamzoo.init_params(tiny.NAME, seed=3)
    return Step(model, params, tiny.CARD)


def test_after_a_disconnect_the_results_are_those_of_an_uninterrupted_run(step):
    frames = video(1, 20, step.card.input_size)

    async def main():
        async with engine(step=step) as e:
            sessions = Sessions(e)
            session = sessions.open(LOSSLESS, owner="me")
            first = session.attach()
            await feed(session, frames[:6])
            _, before = await collect(first, 6)
            # Sent, but the client is gone before it reads.
            await feed(session, frames[6:11], 6)
            first.detach()
            while session.recent.last < 11:
                await asyncio.sleep(0.001)
            again = sessions.resume(session.token)
            assert again is session and again.next == 11
            second = again.attach(before[-1]["seq"])
            assert not again.offer(10, frames[10])  # sent twice, taken once
            task = asyncio.create_task(feed(again, frames[11:], 11))
            missed, after = await collect(second, 14)
            await task
            assert missed == 0 and again.repeated == 1
            records = before + after
            assert [r["index"] for r in records] == list(range(20))
            assert [r["seq"] for r in records] == list(range(1, 21))
            books = session.stream.books
            assert books.received == books.completed == 20
            want = alone(frames, step)
            if step is not STEP:
                for record, out in zip(records, want, strict=True):
                    scores = np.exp(out.logits - out.logits.max())
                    got = [record["classes"][name] for name in tiny.CLASSES]
                    np.testing.assert_allclose(got, scores / scores.sum(), rtol=1e-5)
            else:
                np.testing.assert_array_equal(logits(outputs(records)), logits(want))
            sessions.close()
            assert not sessions.by_name and not e.streams

    run(main())


def test_what_a_latest_wins_client_is_too_slow_for_is_counted():
    async def main():
        async with engine() as e:
            sessions = Sessions(e, Limits(keep=4))
            session = sessions.open(Spec(budget=60.0, capacity=64))
            attachment = session.attach()
            await feed(session, video(0, 10))
            while session.recent.last < 10:
                await asyncio.sleep(0.001)
            missed, records = await collect(attachment, 4, acks=False)
            assert missed == 6 and [r["index"] for r in records] == [6, 7, 8, 9]
            assert session.report()["results"] == {"last": 10, "acked": 0, "missed": 6}
            sessions.close()

    run(main())


def test_a_lossless_session_waits_for_its_client():
    async def main():
        async with engine() as e:
            sessions = Sessions(e, Limits(keep=3))
            session = sessions.open(LOSSLESS)
            task = asyncio.create_task(feed(session, video(0, 100)))
            held = 3 + 64 + 8  # in the cache, unread in the engine, in its queue
            while session.stream.books.received < held:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert session.recent.unacked == 3 and not task.done()
            assert session.stream.books.received == held
            with pytest.raises(ServeError, match="without a credit") as caught:
                session.offer(session.next, video(0, 1)[0])
            assert caught.value.code == "no_credit"
            missed, records = await collect(session.attach(), 100)
            assert missed == 0 and [r["index"] for r in records] == list(range(100))
            await task
            sessions.close()

    run(main())


def test_numbers_of_frames_that_are_bad_or_lost():
    frames = video(2, 8)

    async def main():
        async with engine() as e:
            sessions = Sessions(e)
            session = sessions.open(LOSSLESS)
            await feed(session, frames[:2])
            session.reject()  # 2
            await feed(session, frames[3:4], 3)
            with pytest.raises(ServeError, match="frame 6 came and 4 is due") as caught:
                session.offer(6, frames[6])
            assert caught.value.code == "gap"
            session.skip(5)
            session.reject()  # 5: two jumps at one place
            await feed(session, frames[6:], 6)
            with pytest.raises(ServeError, match="skip to 3"):
                session.skip(3)
            session.finish()
            attachment = session.attach()
            _, records = await collect(attachment, 5)
            assert [r["index"] for r in records] == [0, 1, 3, 6, 7]
            np.testing.assert_array_equal(
                logits(outputs(records)), logits(alone(frames[[0, 1, 3, 6, 7]]))
            )
            assert await attachment.read() is None and session.ended == "finished"
            assert (session.bad, session.skipped) == (2, 1)
            with pytest.raises(ServeError, match="takes no frames"):
                session.offer(8, frames[0])
            sessions.close()

    run(main())


def test_a_newer_client_takes_over_and_a_session_waits_no_longer_than_its_ttl():
    async def main():
        async with engine() as e:
            sessions = Sessions(e, Limits(ttl=0.05))
            session = sessions.open(LOSSLESS)
            old = session.attach()
            waiting = asyncio.create_task(old.read())
            assert (await waiting) == (0, [])  # the limit, at first
            waiting = asyncio.create_task(old.read())
            await asyncio.sleep(0)
            new = sessions.resume(session.token).attach()
            assert await waiting is None and old.replaced
            old.detach()  # too late to matter
            await asyncio.sleep(0.1)
            assert session.name in sessions.by_name
            new.detach()
            await asyncio.sleep(0.1)
            assert session.ended == "removed" and not e.streams
            for token in (session.token, "", "ü", None):
                with pytest.raises(ServeError, match="no session has this token"):
                    sessions.resume(token)
            never = sessions.open(LOSSLESS)  # opened, and nobody came
            await asyncio.sleep(0.1)
            assert never.ended and not sessions.by_name

    run(main())


def test_what_cannot_be_opened():
    async def main():
        async with engine(slots=3) as e:
            sessions = Sessions(e, Limits(streams_per_client=2))
            sessions.open(LOSSLESS, owner="me", name="cam")
            sessions.open(LOSSLESS, owner="me")
            cases = [
                ("too_many", dict(owner="me")),
                ("taken", dict(owner="you", name="cam")),
                ("bad_request", dict(owner="you", name="../etc")),
                ("bad_request", dict(owner="you", name=3)),
            ]
            for code, kwargs in cases:
                with pytest.raises(ServeError) as caught:
                    sessions.open(LOSSLESS, **kwargs)
                assert caught.value.code == code
            sessions.open(LOSSLESS, owner="you")
            with pytest.raises(ServeError, match="all 3 slots are taken") as caught:
                sessions.open(LOSSLESS, owner="him")
            assert caught.value.code == "refused"
            for bad in (dict(fps=0), dict(fps="x"), dict(budget=float("nan")), dict(policy="x"),
                        dict(capacity=0), dict(fps=True)):  # fmt: skip
                with pytest.raises(ServeError):
                    Spec(**bad)
            sessions.remove(sessions.get("cam"))
            sessions.remove(sessions.open(LOSSLESS, owner="me"))
            with pytest.raises(ServeError, match="no stream 'cam'"):
                sessions.get("cam")
            sessions.draining = True
            with pytest.raises(ServeError, match="shutting down"):
                sessions.open(LOSSLESS)
            sessions.close()

    run(main())


def test_the_state_of_a_session_goes_on_in_another_engine():
    """Taken while frames wait, run and are answered, with some results not yet confirmed."""
    frames = video(3, 24)

    async def main():
        states: deque = deque(maxlen=1)
        async with engine() as e:
            sessions = Sessions(e, Limits(keep=6))
            session = sessions.open(LOSSLESS, name="cam")
            task = asyncio.create_task(feed(session, frames))
            attachment = session.attach()
            _, got = await collect(attachment, 9)
            session.reject()
            task.cancel()
            while session.recent.unacked < 2:
                await asyncio.sleep(0.001)
            states.append(await session.state())
            plain, carry = states[0]
            sessions.close()
        async with engine(slots=6) as e:
            sessions = Sessions(e)
            start = Start(carry, plain["next"], plain["last"], plain["records"])
            again = sessions.open(Spec(**plain["spec"]), name="cam", token="t", start=start)
            assert sessions.resume("t") is again
            rest = again.attach(got[-1]["seq"])
            lost = {session.next - 1} if session.next - 1 < again.next else set()
            task = asyncio.create_task(feed(again, frames[again.next :], again.next))
            missed, after = await collect(rest, 24 - len(got) - len(lost))
            await task
            assert missed == 0
            indices = [r["index"] for r in got + after]
            assert indices == [k for k in range(24) if k not in lost]
            assert [r["seq"] for r in got + after] == list(range(1, len(indices) + 1))
            np.testing.assert_array_equal(
                logits(outputs(got + after)), logits(alone(frames[indices]))
            )
            sessions.close()

    run(main())


def test_an_idle_session_gives_its_slot_away_and_goes_on_as_if_it_had_not(step):
    frames, other = video(4, 20, step.card.input_size), video(5, 6, step.card.input_size)

    async def main(park):
        async with engine(step=step, slots=2) as e:
            sessions = Sessions(e)
            first = await sessions.admit(LOSSLESS, owner="me")
            busy = await sessions.admit(LOSSLESS, owner="you")
            kept = busy.attach()
            hold = first.attach()
            first.reject()  # its numbers are not the engine's
            await feed(first, frames[:7], 1)
            _, before = await collect(hold, 7)
            with pytest.raises(ServeError, match="all 2 slots"):  # both are in use
                await sessions.admit(LOSSLESS)
            hold.detach()
            if park:
                guest = await sessions.admit(LOSSLESS, owner="him")
                assert first.parked is not None and first.report()["state"] == "parked"
                assert first.name not in e.streams and busy.parked is None
                visit = guest.attach()
                await feed(guest, other)
                await collect(visit, 6)
                with pytest.raises(ServeError, match="others have its slot"):
                    await sessions.find(first.token)
                plain, _ = await first.state()  # what a snapshot would have
                assert plain["next"] == 8
                visit.detach()  # and now it is the guest's turn to wait
            again = await sessions.find(first.token)
            assert again is first and first.parked is None and again.next == 8
            assert e.streams.keys() == {first.name, busy.name} if park else True
            hold = again.attach(before[-1]["seq"])
            task = asyncio.create_task(feed(again, frames[7:], 8))
            missed, after = await collect(hold, 13)
            await task
            books = first.report()["frames"]
            assert books["received"] == books["completed"] == 20 and missed == 0
            assert [r["index"] for r in before + after] == list(range(1, 21))
            assert [r["seq"] for r in before + after] == list(range(1, 21))
            kept.detach()
            sessions.close()
            return [{k: v for k, v in r.items() if k in ("output", "classes", "persons")}
                    for r in before + after]  # fmt: skip

    got = []
    run_both = [got.append(asyncio.run(asyncio.wait_for(main(park), 60))) for park in (True, False)]
    assert run_both and got[0] == got[1] and got[0][0]
    if step is STEP:
        np.testing.assert_array_equal(logits(outputs(got[0])), logits(alone(frames, batch=2)))


def test_nobody_is_parked_who_is_busy_or_in_vain():
    async def main():
        async with engine(slots=2) as e:
            sessions = Sessions(e, Limits(parked=1))
            lasting = sessions.open(LOSSLESS, lasting=True)
            idle = sessions.open(LOSSLESS)
            e.scheduler.max_load = 1e-9
            with pytest.raises(ServeError, match="all 2 slots"):  # parking would not help
                await sessions.admit(LOSSLESS)
            assert idle.parked is None
            e.scheduler.max_load = 1e9
            second = await sessions.admit(LOSSLESS)
            assert idle.parked is not None and lasting.parked is None
            with pytest.raises(ServeError, match="all 2 slots"):  # one may be parked, and one is
                await sessions.admit(LOSSLESS)
            assert second.parked is None
            await feed(second, video(0, 2))
            sessions.remove(idle)
            assert not second.parkable  # frames of it are on their way
            while not await second.park():
                await asyncio.sleep(0)
            assert second.recent.last == 2 and not await second.park()
            sessions.close()
            assert second.parked is None

    run(main())
