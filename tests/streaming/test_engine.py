"""The engine with a tiny model: bits, order, credits, faults, and streams that come and go."""

import asyncio
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.streaming import Step
from streamzoo.streaming.engine import Costs, Engine, Refused, StreamClosed
from streamzoo.streaming.slots import SlotError

from .stub import CARD, SIZE, Stub, params, video


class Gated(Step):
    """A step that can be held back, and told to raise."""

    def __init__(self, model, params, card):
        super().__init__(model, params, card)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.raises = 0
        self.lost = None  # called in place of a step that is lost with the device

    def __call__(self, carry, frames, valid=None, **extras):
        self.entered.set()
        assert self.gate.wait(20)
        if self.raises:
            self.raises -= 1
            raise RuntimeError("no luck today")
        if self.lost is not None:
            lost, self.lost = self.lost, None
            return lost(carry)
        return super().__call__(carry, frames, valid, **extras)


STEP = Gated(Stub(), params(), CARD)


def engine(*, slots=4, buckets=(4,), step=STEP, depth=2):
    return Engine(
        step, slots=slots, buckets=buckets, depth=depth, max_load=1e9,
        costs=Costs({b: [1e-4] for b in buckets}),
    )  # fmt: skip


def lossless(e, name, **kwargs):
    return e.add(name, 15, budget=60.0, policy="lossless", check=False, **kwargs)


def alone(frames, batch, carry=None):
    """The answers of a stream that has a batch of this size to itself."""
    state = Stub().init_carry(batch, SIZE)
    if carry is not None:
        state = jax.tree.map(lambda a, b: a.at[:1].set(b), state, carry)
    valid = np.arange(batch)[:, None] == 0
    answers = []
    for frame in frames:
        images = np.zeros((batch, 1, *SIZE, 3), np.uint8)
        images[0, 0] = frame
        state, out = STEP(state, images, valid)
        answers.append(np.asarray(out["logits"][0, 0]))
    return np.asarray(answers)


async def feed(stream, frames):
    for frame in frames:
        await stream.push(frame)
    stream.finish()


async def read(stream):
    return [answer async for answer in stream]


def logits(answers):
    return np.asarray([a.result.output["logits"] for a in answers])


def run(main):
    asyncio.run(asyncio.wait_for(main, 60))


@pytest.mark.parametrize("slots", [4, 6])  # 4: the whole pool is the bucket
def test_a_stream_among_others_is_the_stream_alone_bit_for_bit(slots):
    lengths = [13, 20, 7, 9]

    async def main():
        async with engine(slots=slots) as e:
            streams = [lossless(e, k) for k in range(4)]
            feeds = [feed(s, video(k, lengths[k])) for k, s in enumerate(streams)]
            answers = await asyncio.gather(*map(read, streams), *feeds)
            total = e.report()["total"]
        assert total["completed"] == total["received"] == sum(lengths)
        for k, length in enumerate(lengths):
            assert [a.index for a in answers[k]] == list(range(length))
            np.testing.assert_array_equal(logits(answers[k]), alone(video(k, length), 4))
            assert [int(a.result.output["n"]) for a in answers[k]] == list(range(1, length + 1))

    run(main())


def test_no_carry_leaks_into_a_slot_that_is_used_again():
    """What a stream leaves behind, and every row that is only padding, is poisoned."""

    async def main():
        async with engine(slots=3, buckets=(2,)) as e:
            kept, gone = lossless(e, "kept"), lossless(e, "gone")
            for frame in video(0, 3):
                await kept.push(frame)
                await gone.push(frame)
            kept_answers = [await anext(kept) for _ in range(3)]
            [await anext(gone) for _ in range(3)]
            gone.close()
            await kept.snapshot()  # the slot is free by now
            pool = e._pool
            assert len(pool.streams) == 1
            row = pool._index(kept.state)
            free = np.arange(3) != row
            poison = {"h": jnp.nan, "n": 10**6}
            pool.carry = jax.tree.map(
                lambda a, p: jnp.where(free.reshape(-1, *[1] * (a.ndim - 1)), p, a),
                pool.carry, poison,
            )  # fmt: skip
            new = lossless(e, "gone")  # the name comes again too
            task = asyncio.gather(feed(new, video(5, 4)), feed(kept, video(1, 4)))
            answers, rest = await asyncio.gather(read(new), read(kept))
            await task
            np.testing.assert_array_equal(logits(answers), alone(video(5, 4), 2))
            both = np.concatenate([video(0, 3), video(1, 4)])
            np.testing.assert_array_equal(logits(kept_answers + rest), alone(both, 2))

    run(main())


def test_a_snapshot_goes_on_elsewhere():
    frames = video(3, 9)

    async def main():
        async with engine() as e:
            first = lossless(e, "a")
            for frame in frames[:5]:
                await first.push(frame)
            before = [await anext(first) for _ in range(5)]
            seen, carry = await first.snapshot()
            assert seen == 5 and isinstance(carry["h"], np.ndarray)
        async with engine(slots=6) as e:
            other = lossless(e, "b", carry=carry, start=seen)
            same, _ = await other.snapshot()  # before its first step
            assert same == 5
            await feed(other, frames[5:])
            after = await read(other)
            with pytest.raises(SlotError, match="not one stream"):
                lossless(e, "c", carry={"h": np.zeros(3)})
            with pytest.raises(StreamClosed, match="has no state"):
                await other.snapshot()
        assert [a.index for a in before + after] == list(range(9))
        np.testing.assert_array_equal(logits(before + after), alone(frames, 4))

    run(main())


def test_neither_a_new_stream_nor_a_snapshot_waits_for_the_compiler():
    compiled = []

    def listen(name, seconds, **_):
        if "backend_compile" in name:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)

    async def main():
        async with engine() as e:
            assert compiled
            compiled.clear()
            a, b = lossless(e, "a"), lossless(e, "b")
            for stream in (a, b):
                await stream.push(video(0, 1)[0])
                await anext(stream)
            _, carry = await a.snapshot()
            a.close()
            c = lossless(e, "c", carry=carry)
            await c.push(video(1, 1)[0])
            while not c.unread:
                await asyncio.sleep(0.001)
            assert [x.index for x in c.unread] == [0] and (await anext(c)).index == 0
            assert not compiled and c.unread == ()
            with pytest.raises(SlotError, match="before its first stream"):
                e._pool.warm()

    run(main())


def test_a_slow_reader_holds_back_its_sender_and_nobody_else():
    async def main():
        async with engine(buckets=(1, 4)) as e:
            slow = lossless(e, "slow", capacity=3, unread=2)
            quick = lossless(e, "quick")
            task = asyncio.create_task(feed(slow, video(0, 12)))
            await asyncio.gather(feed(quick, video(1, 20)), read(quick))
            while slow.credits:
                await asyncio.sleep(0.001)
            # 2 unread, 3 waiting, the sixth is still its sender's
            books = slow.books
            assert (books.received, books.completed, books.waiting) == (5, 2, 3)
            assert slow.offer(video(0, 1)[0]) is None and slow.books.refused
            answers = []
            async for answer in slow:
                answers.append(answer)
                books = slow.books
                assert books.balanced and books.waiting <= 3
                assert books.completed + books.running - len(answers) <= 2
            await task
            # Steps of one and of four in turns: the same numbers, not the same bits.
            np.testing.assert_allclose(logits(answers), alone(video(0, 12), 4), atol=1e-5)
            # Latest wins: the newest answers stay, the others are counted.
            live = e.add("live", 15, budget=60.0, unread=2, capacity=9, check=False)
            await feed(live, video(2, 5))
            while not live.closed:
                await asyncio.sleep(0.001)
            assert [a.index for a in await read(live)] == [3, 4]
            assert live.books.overwritten == 3 and live.books.completed == 5

    run(main())


def test_a_step_that_raises_is_reported_and_the_engine_goes_on():
    frames = video(4, 4)

    async def main():
        async with engine() as e:
            a = lossless(e, "a")
            await a.push(frames[0])
            first = await anext(a)
            STEP.raises = 1
            await a.push(frames[1])
            failed = await anext(a)
            assert failed.result is None and failed.error == "no luck today"
            assert failed.index == 1 and not failed.reset
            await feed(a, frames[2:])
            rest = await read(a)
            # The carry stayed where it was: the failed frame is as if it had not come.
            want = alone(frames[[0, 2, 3]], 4)
            np.testing.assert_array_equal(logits([first, *rest]), want)
            assert a.books.dropped == {"error": 1} and a.books.balanced

    run(main())


class Lost:
    """An output that never comes."""

    def __init__(self, fail):
        self.fail = fail

    def copy_to_host_async(self):
        pass

    def __array__(self, *_, **__):
        self.fail()


@pytest.mark.parametrize("when", ["on launch", "on the answer"])
def test_a_device_that_fails_takes_the_state_and_says_so(when):
    frame = video(0, 1)[0]

    async def main():
        async with engine(slots=2, buckets=(2,)) as e:

            def fail(_=None):
                jax.tree.map(lambda a: a.delete(), e._pool.carry)
                raise RuntimeError("the device has failed")

            a, b = lossless(e, "a"), lossless(e, "b")
            for stream in (a, b):
                await stream.push(frame)
                assert int((await anext(stream)).result.output["n"]) == 1
            STEP.lost = fail if when == "on launch" else lambda carry: (carry, Lost(fail))
            await a.push(frame)
            failed = await anext(a)
            assert failed.error == "the device has failed" and failed.result is None
            for stream in (a, b):
                await stream.push(frame)
                answer = await anext(stream)
                assert answer.reset and int(answer.result.output["n"]) == 1
                await stream.push(frame)
                answer = await anext(stream)
                assert not answer.reset and int(answer.result.output["n"]) == 2
            assert e.report()["total"]["dropped"] == {"error": 1}

    run(main())


def test_close_from_any_state():
    before = set(threading.enumerate())

    async def main():
        e = await engine(slots=3, buckets=(3,)).start()
        running, waiting, pushing = (lossless(e, n, capacity=1) for n in "abc")
        idle_reader = asyncio.create_task(read(waiting))
        STEP.entered.clear()
        STEP.gate.clear()  # steps hang from here on
        frame = video(0, 1)[0]
        await running.push(frame)
        await asyncio.to_thread(STEP.entered.wait, 20)
        await pushing.push(frame)
        blocked = asyncio.create_task(pushing.push(frame))
        cancelled = asyncio.create_task(pushing.push(frame))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert running.close().running == 1  # in the hanging step
        assert running.close().balanced  # again
        for stream in (waiting, pushing):
            stream.close()
        with pytest.raises(StreamClosed, match="'c' is closed"):
            await blocked
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await idle_reader == [] and await read(running) == []
        with pytest.raises(StreamClosed):
            running.offer(frame)
        again = lossless(e, "a")  # its slot is free although the step still hangs
        await again.push(frame)
        STEP.gate.set()
        np.testing.assert_array_equal(logits([await anext(again)]), alone([frame], 3)[:1])
        assert running.books.dropped == {"closed": 1} and running.books.in_flight == 0
        assert pushing.books.dropped == {"closed": 1} and pushing.books.received == 1
        assert e.report()["total"]["in_flight"] == 0
        await e.close()
        await e.close()
        with pytest.raises(Refused, match="is closing"):
            lossless(e, "z")

    async def main_all():
        await engine().close()  # never started
        await main()

    run(main_all())
    left = [t for t in set(threading.enumerate()) - before if "engine" in t.name]
    for thread in left:
        thread.join(10)  # on a busy machine it ends a moment later
    left = [t for t in left if t.is_alive()]
    assert not left


def test_drain_answers_what_waits_and_takes_nothing_new():
    async def main():
        async with engine() as e:
            a = lossless(e, "a", capacity=8)
            for frame in video(0, 6):
                a.offer(frame)
            assert await e.drain(20)
            with pytest.raises(Refused, match="closing"):
                lossless(e, "b")
            with pytest.raises(StreamClosed):
                a.offer(video(0, 1)[0])
            assert len(await read(a)) == 6
        async with engine() as e:
            a = lossless(e, "a", capacity=8, unread=1)  # nobody reads
            for frame in video(0, 3):
                a.offer(frame)
            assert not await e.drain(0.05)
        assert a.books.dropped == {"closed": 2} and a.books.completed == 1

    run(main())


def test_frames_from_threads_pause_and_resume():
    async def main():
        async with engine() as e:
            a = e.add("a", 15, budget=60.0, capacity=3, check=False)
            a.pause()
            await asyncio.gather(*(asyncio.to_thread(a.offer, f) for f in video(0, 5)))
            assert a.paused and a.books.waiting == 3 and a.books.completed == 0
            assert a.books.dropped == {"superseded": 2}
            a.resume()
            assert [(await anext(a)).index for _ in range(3)] == [2, 3, 4]
            with pytest.raises(ValueError, match=r"stream .a.: frame \(4, 4, 3\) should be"):
                a.offer(np.zeros((4, 4, 3), np.uint8))

    run(main())


def test_costs_are_measured_and_no_stream_notices():
    async def main():
        e = Engine(STEP, slots=3, max_load=0.5)
        async with e:
            assert e.buckets == (1, 2, 3) and set(e.report()["step_ms"]) == {1, 2, 3}
            assert all(0 < ms < 1000 for ms in e.report()["step_ms"].values())
            with pytest.raises(Refused, match="50% is the limit"):
                e.add("fast", 1e6)
            a = lossless(e, "a")
            await feed(a, video(0, 2))
            assert [int(x.result.output["n"]) for x in await read(a)] == [1, 2]
            assert not e.streams

    run(main())
