"""Questions over the session that takes frames: a real server, a tiny language model."""

import asyncio
import json
import threading

from streamzoo.streaming.serve.mail import QUESTIONS, REMARKS, Mail
from streamzoo.streaming.serve.server import Server
from streamzoo.streaming.serve.talks import Talks
from streamzoo.streaming.serve.wire import RAW, FrameMessage, pack
from streamzoo.streaming.triggers import Gate

from .serving import engine, run
from .stub import SIZE, video
from .test_chat import talking
from .test_serve_page import ask as look_at
from .test_serve_page import look
from .test_serve_web import hear, line, rest, say, settings


class Emoji:
    """In the place of a conversation's speaker: says these tokens, byte by byte."""

    def __init__(self, words, speaker):
        self.bytes = speaker.tokenizer.words(words)
        self.speaker = speaker
        self.model, self.tokenizer = speaker.model, speaker.tokenizer
        self.begin, self.read = speaker.begin, speaker.read

    def answer(self, state, limit, told=None):
        for token in self.bytes:
            yield token, state


def server(e, words=None, gate=None, **options):
    """A server whose streams can be asked; ``words``: what every answer says."""

    def make():
        conversation = talking(gate=gate, **options)
        if words is not None:
            conversation.speaker = Emoji(words, conversation.speaker)
        return conversation

    return Server(e, settings(), talks=lambda s: Talks(s, make, every=0.5, name="tiny"))


def frame(index, time):
    picture = video(0, 1)[0]
    return pack(FrameMessage(RAW, index, picture.tobytes(), time, height=SIZE[0], width=SIZE[1]))


async def until_answer(socket, number):
    """(the pieces of an answer, its last message)."""
    pieces = []
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), 60))
        if message["type"] == "words" and message["id"] == number:
            pieces.append(message["text"])
        if message["type"] in ("answer", "error") and message.get("id") == number:
            return pieces, message


def test_a_session_is_asked_while_its_frames_come():
    async def main():
        async with engine() as e, server(e) as s, line(s) as socket:
            await say(socket, type="open", fps=15, policy="lossless", budget_ms=60_000)
            opened = await hear(socket, "opened")
            assert opened["language"] == "tiny"
            # before any frame: there is an answer, and nothing that was seen
            await say(socket, type="ask", id="first", text="who?")
            pieces, first = await until_answer(socket, "first")
            assert "".join(pieces).strip() == first["text"] and first["time"] == 0.0
            for i in range(4):
                await socket.send(frame(i, 100 + 0.25 * i))  # a clock of its own
            for _ in range(4):
                record = await hear(socket, "result")
                await say(socket, type="ack", seq=record["seq"])
            talk = s.talks.of(s.sessions.get(opened["session"]))
            while talk.busy or not talk.rounds:
                await asyncio.sleep(0.01)
            assert talk.rounds == 1 and talk.time == 0.75
            before = talk.words.state
            await say(socket, type="ask", id=2, text="and now?")
            pieces, second = await until_answer(socket, 2)
            assert "".join(pieces).strip() == second["text"] and second["time"] == 0.75
            assert talk.words.state is before  # no trace
            # over REST, the whole at once; the same question has the same answer
            path = f"/streams/{opened['session']}/ask"
            status, told = await rest(s, path, "POST", {"text": "and now?"})
            assert status == 200 and told["text"] == second["text"]
            await say(socket, type="ask", id=3, text="the last?")
            await say(socket, type="finish")
            _, third = await until_answer(socket, 3)  # before the end
            assert third["type"] == "answer"
            assert (await hear(socket, "end"))["reason"] == "finished"

    run(main(), 300)


def test_letters_of_several_tokens_come_whole_and_a_slow_reader_gets_them_together():
    words = "né 👩‍🚀 日本"

    async def main():
        async with engine() as e, server(e, words) as s, line(s) as socket:
            await say(socket, type="open", fps=15)
            await hear(socket, "opened")
            await say(socket, type="ask", id=1, text="?")
            pieces, told = await until_answer(socket, 1)
            assert "".join(pieces) == words == told["text"]
            assert not any("\ufffd" in piece for piece in pieces)

    run(main(), 300)
    # who does not read holds one text for each question, however many pieces it had
    woken = []
    mail = Mail(lambda: woken.append(1))
    assert not mail
    for piece in ["a", "b", "c"] * 100:
        mail.piece(7, piece)
    mail.remarks = True
    for k in range(REMARKS + 5):
        mail.remark({"type": "remark", "text": str(k)})
    mail.waiting = 1
    mail.whole({"type": "answer", "id": 7})
    messages = mail.take()
    assert messages[0] == {"type": "words", "id": 7, "text": "abc" * 100}
    assert messages[1] == {"type": "answer", "id": 7}
    assert messages[2] == {"type": "missed_remarks", "count": 5}
    assert [m["text"] for m in messages[3:]] == [str(k) for k in range(5, REMARKS + 5)]
    assert not mail and mail.take() == [] and len(woken) == 300 + REMARKS + 5 + 1
    mail.remarks = False
    mail.remark({})
    assert not mail


def test_questions_that_cannot_be_answered_are_told_why():
    gate = threading.Event()

    async def main():
        async with engine() as e, server(e) as s, line(s) as socket:
            await say(socket, type="open", fps=15)
            opened = await hear(socket, "opened")
            await say(socket, type="ask", id=1, text=" ")
            assert (await until_answer(socket, 1))[1]["code"] == "bad_question"
            await say(socket, type="ask", id=2, text="word " * 200)
            long = (await until_answer(socket, 2))[1]
            assert long["code"] == "bad_question" and "tokens, and" in long["message"]
            await say(socket, type="ask", id=[1], text="?")
            assert "its id is a number" in (await hear(socket, "error"))["message"]
            await say(socket, type="ask", id=3)
            assert (await until_answer(socket, 3))[1]["code"] == "bad_question"
            # while one is answered, a few more may wait, and the next is refused
            session = s.sessions.get(opened["session"])
            talk = s.talks.of(session)
            words, real = talk.words, talk.words.ask
            words.ask = lambda *a: gate.wait(60) and real(*a)
            for k in range(QUESTIONS + 1):
                await say(socket, type="ask", id=10 + k, text="who?")
            refused = (await until_answer(socket, 10 + QUESTIONS))[1]
            assert refused["code"] == "busy"
            gate.set()
            for k in range(QUESTIONS):
                assert (await until_answer(socket, 10 + k))[1]["type"] == "answer"
            words.ask = lambda *_: 1 / 0
            await say(socket, type="ask", id=20, text="who?")
            failed = (await until_answer(socket, 20))[1]
            assert failed["code"] == "language" and "ZeroDivisionError" in failed["message"]
            status, told = await rest(s, "/streams/nobody/ask", "POST", {"text": "?"})
            assert status == 404 and told["error"]["code"] == "unknown_stream"
        async with engine() as e, Server(e, settings()) as s, line(s) as socket:
            await say(socket, type="open", fps=15)
            assert (await hear(socket, "opened"))["language"] == ""
            await say(socket, type="ask", id=1, text="who?")
            assert "--language" in (await hear(socket, "error"))["message"]

    run(main(), 300)


def test_a_remark_comes_by_itself_to_who_wants_it_and_to_the_page():
    async def main():
        async with engine() as e, server(e, "A thing came.", gate=Gate(0.0, repeat=True)) as s:
            async with line(s) as socket, look(s) as page:
                await say(page, type="watch")
                assert (await hear(page, "watching"))["language"] == "tiny"
                await say(socket, type="open", fps=15, name="cam", remarks=True)
                await hear(socket, "opened")
                sent = 0

                async def film():  # goes on: while language compiles, rounds are left out
                    nonlocal sent
                    while True:
                        await socket.send(frame(sent, 0.25 * sent))
                        sent += 1
                        await asyncio.sleep(0.07)

                filming = asyncio.create_task(film())
                remark = {"type": ""}
                while remark["type"] != "remark":
                    remark = json.loads(await asyncio.wait_for(socket.recv(), 120))
                filming.cancel()
                assert remark["text"] == "A thing came." and remark["seen"].startswith("[0:0")
                rows, header = [], {}
                while not rows:
                    header, _ = await look_at(page, [], header.get("after", 0))
                    rows = [r for r in header.get("state", {}).get("streams", []) if r["said"]]
                assert rows[0]["said"][0]["text"] == "A thing came."
                # what is seen goes on where language fails
                talk = s.talks.of(s.sessions.get("cam"))
                talk.words.hear = lambda _: 1 / 0
                for i in range(sent, sent + 7):
                    await socket.send(frame(i, 0.25 * i))
                while (await hear(socket, "result"))["index"] < sent + 6:
                    pass
                while not talk.failed:
                    await asyncio.sleep(0.01)
                assert "ZeroDivisionError" in talk.failed

    run(main(), 300)
