"""The gRPC service, as a client in any language sees it."""

import asyncio
from importlib import resources
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from streamzoo.streaming.listening import Listener
from streamzoo.streaming.serve import Limits
from streamzoo.streaming.serve import streamzoo_serve_pb2 as pb
from streamzoo.streaming.serve.access import Tokens
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.serve.sound_session import record_of

from .serving import alone, engine, logits, run
from .spoken import Counting, Likely, spoken
from .stub import SIZE, video

TOKEN = "correct horse"
SERVICE = "streamzoo.serve.v1.Streams"


def settings(**kwargs):
    return Settings(port=0, grpc_port=0, **kwargs)


def channel(server):
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc.port}")


def call(link, token=None):
    metadata = None if token is None else (("authorization", f"Bearer {token}"),)
    return link.stream_stream(
        f"/{SERVICE}/Stream", pb.ClientMessage.SerializeToString, pb.ServerMessage.FromString
    )(metadata=metadata)


def frame(index, image):
    height, width = image.shape[:2]
    return pb.ClientMessage(
        frame=pb.Frame(index=index, rgb=image.tobytes(), height=height, width=width, time=index)
    )


async def hear(stream, kind):
    while True:
        message = await asyncio.wait_for(stream.read(), 20)
        assert message is not grpc.aio.EOF
        if message.WhichOneof("message") == kind:
            return getattr(message, kind)


OPEN = pb.ClientMessage(open=pb.Open(policy="lossless", budget_ms=60000, name="cam"))


def test_the_generated_code_is_that_of_the_proto(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    folder = resources.files("streamzoo.streaming.serve")
    (tmp_path / "streamzoo_serve.proto").write_text(
        folder.joinpath("streamzoo_serve.proto").read_text()
    )
    include = str(resources.files("grpc_tools") / "_proto")
    target = tmp_path / "set"
    words = ["", f"-I{tmp_path}", f"-I{include}", f"-o{target}", "streamzoo_serve.proto"]
    assert protoc.main(words) == 0
    from google.protobuf import descriptor_pb2

    made = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file[0]
    ours = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    made.ClearField("source_code_info")
    for message in [*made.message_type, *ours.message_type]:
        for field in message.field:
            field.ClearField("json_name")
    assert made == ours


def test_a_stream_and_its_way_back_after_the_call_was_cut():
    frames = video(4, 20)

    async def main():
        async with engine() as e, Server(e, settings()) as server, channel(server) as link:
            stream = call(link)
            await stream.write(OPEN)
            opened = await hear(stream, "opened")
            assert (opened.height, opened.width, opened.session) == (*SIZE, "cam")
            assert opened.credits.limit == 8 and list(opened.classes) == ["a", "b"]
            got = []
            for k in range(8):
                await stream.write(frame(k, frames[k]))
            for _ in range(5):
                got.append(await hear(stream, "result"))
            stream.cancel()
            stream = call(link)
            await stream.write(
                pb.ClientMessage(resume=pb.Resume(token=opened.token, after=got[-1].seq))
            )
            again = await hear(stream, "opened")
            # What was still on its way when the call was cut has to be sent again.
            assert again.resumed and 5 <= again.next <= 8 and again.token == opened.token
            limit, sent = again.credits.limit, again.next
            while len(got) < 20:
                while sent < min(limit, 20):
                    await stream.write(frame(sent, frames[sent]))
                    sent += 1
                got.append(await hear(stream, "result"))
                limit = max(limit, got[-1].credits.limit)
                await stream.write(pb.ClientMessage(ack=got[-1].seq))
            assert [r.index for r in got] == list(range(20)) and got[7].time == 7.0
            outputs = [{"logits": list(r.output["logits"])} for r in got]
            np.testing.assert_array_equal(logits(outputs), logits(alone(frames)))
            await stream.write(pb.ClientMessage(control=pb.FINISH))
            end = await hear(stream, "end")
            assert end.reason == "finished" and end.frames["completed"] == 20

    run(main())


def test_errors_health_and_reflection():
    async def main():
        limits = Limits(handshake=0.3, message=10_000)
        protected = settings(tokens=Tokens([TOKEN]), limits=limits)
        async with engine() as e, Server(e, protected) as server, channel(server) as link:
            # Without a token the call is refused unheard. grpc.aio's client may call that an
            # internal error if it is just writing, so here it writes nothing.
            for token, first, code in [
                (None, None, grpc.StatusCode.UNAUTHENTICATED),
                ("wrong", None, grpc.StatusCode.UNAUTHENTICATED),
                (TOKEN, pb.ClientMessage(), grpc.StatusCode.INVALID_ARGUMENT),
                (TOKEN, None, grpc.StatusCode.INVALID_ARGUMENT),
                (TOKEN, frame(0, video(0, 1)[0]), grpc.StatusCode.INVALID_ARGUMENT),
                (TOKEN, pb.ClientMessage(resume=pb.Resume(token="x")), grpc.StatusCode.NOT_FOUND),
                (TOKEN, pb.ClientMessage(open=pb.Open(policy="x")),
                 grpc.StatusCode.INVALID_ARGUMENT),
            ]:  # fmt: skip
                stream = call(link, token)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    if first is not None:
                        await stream.write(first)
                    while await stream.read() is not grpc.aio.EOF:
                        pass
                    pytest.fail("the stream ended well")
                assert caught.value.code() == code, caught.value.details()
            stream = call(link, TOKEN)
            await stream.write(OPEN)
            await hear(stream, "opened")
            await stream.write(pb.ClientMessage(frame=pb.Frame(index=0, jpeg=b"no")))
            error = await hear(stream, "error")
            assert error.code == "bad_frame" and error.index == 0
            await stream.write(frame(1, video(0, 1)[0]))
            assert (await hear(stream, "result")).index == 1
            check = health_pb2_grpc.HealthStub(link).Check
            status = health_pb2.HealthCheckResponse
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            assert (await check(request)).status == status.SERVING
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(link)
            info, names = stub.ServerReflectionInfo(iter([asked])), []
            async for answer in info:
                names += [s.name for s in answer.list_services_response.service]
            assert SERVICE in names
            draining = asyncio.create_task(server.drain())
            assert (await hear(stream, "end")).reason == "draining"
            await draining
            assert (await check(request)).status == status.NOT_SERVING

    run(main())


def test_sound_and_its_words(monkeypatch):
    """16-bit samples in, words out, the same as a listener alone gives; back with the token."""
    monkeypatch.setattr("streamzoo.streaming.listening.load", lambda name: (Likely(), {}))
    pcm = (spoken((0.6, 0), (1.5, 0.9), (1, 0)) * 32767).astype("<i2")
    listener = Listener(begin=Counting)
    said = [*listener.push(pcm.astype(np.float32) / 32768), *listener.flush()]
    want = [record_of(u) for u in said if u.fresh or u.final]
    sound = lambda index, part: pb.ClientMessage(frame=pb.Frame(index=index, pcm=part.tobytes()))

    async def main():
        hears = ("counting", Counting)
        async with engine() as own, Server(own, settings(), hears) as server:
            async with channel(server) as link:
                stream = call(link)
                await stream.write(pb.ClientMessage(open=pb.Open(sound=True, name="desk")))
                opened = await hear(stream, "opened")
                assert opened.rate == 16_000 and opened.task == "speech"
                await stream.write(sound(0, pcm[:20_000]))
                words = [await hear(stream, "words")]
                stream.cancel()
                stream = call(link)
                back = pb.Resume(token=opened.token, after=words[-1].seq, sound=True)
                await stream.write(pb.ClientMessage(resume=back))
                opened = await hear(stream, "opened")
                assert opened.resumed and opened.next == 20_000
                await stream.write(sound(opened.next, pcm[20_000:]))
                await stream.write(pb.ClientMessage(control=pb.FINISH))
                maybe = 0
                while True:
                    message = await asyncio.wait_for(stream.read(), 20)
                    kind = message.WhichOneof("message")
                    maybe += kind == "maybe"
                    if kind == "words":
                        words.append(message.words)
                    if kind == "end":
                        break
                assert dict(message.end.samples)["heard"] == len(pcm) and maybe
                got = [[w.text for w in row.words] for row in words]
                assert got == [[w["text"] for w in row["words"]] for row in want]
                assert words[-1].final and words[-1].text == want[-1]["text"]

    run(main())
