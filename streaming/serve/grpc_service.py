"""The gRPC service: the conversation of the WebSocket as protobuf messages, on its own port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc_health.v1 import health as health_package
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ...layers.streaming import Fields
from . import streamzoo_serve_pb2 as pb
from .access import Tokens
from .conversation import Closing, Message
from .door import Door
from .limits import ServeError
from .sessions import Sessions
from .sound_conversation import Talk, conversation
from .sounds import Sounds
from .wire import JPEG, PCM, RAW, FrameMessage

health: Any = vars(health_package)["aio"]  # which its stubs leave out
log = logging.getLogger("streamzoo.serve")
SERVICE = "streamzoo.serve.v1.Streams"
CODES = {
    "unauthorised": grpc.StatusCode.UNAUTHENTICATED, "unknown_token": grpc.StatusCode.NOT_FOUND,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "taken": grpc.StatusCode.ALREADY_EXISTS, "too_many": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "refused": grpc.StatusCode.RESOURCE_EXHAUSTED, "draining": grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
CONTROLS = {pb.PAUSE: "pause", pb.GO: "go", pb.FINISH: "finish", pb.CLOSE: "close"}


def read(data: bytes) -> pb.ClientMessage:
    """A message without content for bytes that are none: an error to tell, not a stack trace."""
    try:
        return pb.ClientMessage.FromString(data)
    except DecodeError:
        return pb.ClientMessage()


def heard(message: pb.ClientMessage) -> Message | FrameMessage:
    """A client's message in the words of :mod:`.wire`. Raises ServeError "bad_request"."""
    kind = message.WhichOneof("message")
    if kind == "frame":
        frame = message.frame
        kind = frame.WhichOneof("picture") or "jpeg"
        return FrameMessage(
            {"jpeg": JPEG, "rgb": RAW, "pcm": PCM}[kind], frame.index, getattr(frame, kind),
            frame.time if frame.HasField("time") else None, frame.event, frame.height, frame.width,
        )  # fmt: skip
    if kind == "ack":
        return {"type": "ack", "seq": message.ack}
    if kind == "skip":
        return {"type": "skip", "to": message.skip}
    if kind == "control" and message.control in CONTROLS:
        return {"type": CONTROLS[message.control]}
    if kind == "resume":
        resume = message.resume
        sound = {"sound": True} if resume.sound else {}
        return {"type": "resume", "token": resume.token, "after": resume.after, **sound}
    if kind == "open":
        # proto3: what was not set is 0 or "", and means the default.
        fields = {f: getattr(message.open, f) for f in pb.Open.DESCRIPTOR.fields_by_name}
        return {"type": "open", **{k: v for k, v in fields.items() if v}}
    raise ServeError("bad_request", f"a message without a content that is known here: {kind}")


def said(message: Message) -> pb.ServerMessage:
    """A server's message as protobuf."""
    kind, out = message["type"], pb.ServerMessage()
    fields = {k: v for k, v in message.items() if k not in ("type", "limit", "durable", "size")}
    credits = pb.Credits(limit=message.get("limit", 0), durable=message.get("durable", 0))
    if kind == "result" and "words" in fields:
        out.words.CopyFrom(pb.Words(**fields, credits=credits))
    elif kind == "maybe":
        out.maybe.CopyFrom(pb.Maybe(**fields))
    elif kind == "result":
        out.result.CopyFrom(_result(fields))
        out.result.credits.CopyFrom(credits)
    elif kind == "opened":
        height, width = message.get("size", (0, 0))
        out.opened.CopyFrom(pb.Opened(credits=credits, height=height, width=width, **fields))
    elif kind == "credits":
        out.credits.CopyFrom(credits)
    elif kind == "missed":
        out.missed = message["count"]
    elif kind == "error":
        out.error.CopyFrom(pb.Error(**fields))
    else:
        out.end.reason = message["reason"] or ""
        for books in ("frames", "samples"):
            if books in message:
                json_format.ParseDict(message[books], getattr(out.end, books))
    return out


def _result(fields: Fields) -> pb.Result:
    classes, persons = fields.pop("classes", {}), fields.pop("persons", [])
    output = fields.pop("output", {})
    result = pb.Result(**fields, classes=_scores(classes))
    for person in persons:
        result.persons.add(
            box=person["box"], score=person["score"], classes=_scores(person.get("classes", {}))
        )
    json_format.ParseDict(output, result.output)
    return result


def _scores(classes: dict[str, float | None]) -> list[pb.Score]:
    nan = float("nan")
    return [pb.Score(name=k, score=nan if v is None else v) for k, v in classes.items()]


class Service:
    """The handlers of one server."""

    def __init__(
        self,
        sessions: Sessions,
        tokens: Tokens,
        observe: Callable[[str, float], None],
        door: Door = Door(),
        sounds: Sounds | None = None,
    ):
        self._sessions, self._tokens, self._observe, self._door = sessions, tokens, observe, door
        self._sounds = sounds

    async def stream(
        self, requests: AsyncIterator[pb.ClientMessage], context: Any
    ) -> AsyncIterator[pb.ServerMessage]:
        """One call, until either side hangs up."""
        talk = None
        try:
            talk, opened = await self._begin(requests, context)
            yield said(opened)
            async for message in self._talk(talk, requests):
                yield said(message)
        except ServeError as error:
            code = CODES.get(error.code, grpc.StatusCode.INVALID_ARGUMENT)
            await context.abort(code, f"{error.code}: {error}")
        except Closing as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            if talk is not None:
                talk.end()

    async def _begin(self, requests: Any, context: Any) -> tuple[Talk, Message]:
        address = context.peer().rpartition(":")[0]
        metadata = dict(context.invocation_metadata() or ())
        # Browsers say of which site a page is, whatever name it reached us by; programs do not.
        origin = metadata.get("origin")
        why = self._door.refusal([(b"origin", str(origin).encode())]) if origin else None
        if why is not None:
            raise ServeError("forbidden", why)
        # Metadata are ASCII, but for keys that end in -bin.
        words = metadata.get("authorization-bin", metadata.get("authorization", ""))
        words = words if isinstance(words, bytes) else str(words).encode()
        kind, _, token = words.partition(b" ")
        owner = self._tokens.owner(token if kind.lower() == b"bearer" else None, address)
        try:
            async with asyncio.timeout(self._sessions.limits.handshake):
                first = heard(await anext(requests))
        except (TimeoutError, StopAsyncIteration):
            raise ServeError("bad_request", "no first message in time") from None
        if isinstance(first, FrameMessage):
            raise ServeError("bad_request", 'the first message is "open" or "resume"')
        talk = conversation(first, owner, self._sessions, self._sounds, self._observe)
        return talk, await talk.begin(first)

    @staticmethod
    async def _talk(talk: Talk, requests: Any) -> AsyncIterator[Message]:
        """What the conversation says, and replies in between. Raises Closing."""
        out: asyncio.Queue[Message | BaseException | None] = asyncio.Queue(8)

        async def listen() -> None:
            async for request in requests:
                try:
                    message = heard(request)
                    if isinstance(message, FrameMessage):
                        reply = await talk.frame(message)
                    else:
                        reply = talk.control(message)
                except ServeError as error:
                    reply = talk.error(error)
                if reply is not None:
                    await out.put(reply)

        async def tell() -> None:
            async for message in talk.outgoing():
                await out.put(message)
            await out.put(None)

        async def guarded(work: Any) -> None:
            try:
                await work
            except Exception as error:
                await out.put(error)

        tasks = [asyncio.create_task(guarded(work)) for work in (listen(), tell())]
        try:
            while (message := await out.get()) is not None:
                if isinstance(message, BaseException):
                    raise message
                yield message
        finally:
            for task in tasks:
                task.cancel()


class GrpcServer:
    """The service on its port, with health and reflection.

    Args:
      address: host:port; port 0 takes a free one.
      certificate, key: PEM files, for TLS.
    """

    def __init__(
        self,
        sessions: Sessions,
        address: str,
        tokens: Tokens,
        observe: Callable[[str, float], None],
        certificate: Path | None = None,
        key: Path | None = None,
        door: Door = Door(),
        sounds: Sounds | None = None,
    ):
        limits = sessions.limits
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=limits.connections,
            options=[
                ("grpc.max_receive_message_length", limits.message),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", int(1e3 * limits.handshake)),
                ("grpc.max_connection_idle_ms", 300_000),
            ],
        )
        service = Service(sessions, tokens, observe, door, sounds)
        handler = grpc.stream_stream_rpc_method_handler(
            service.stream,  # type: ignore[arg-type]
            request_deserializer=read,
            response_serializer=pb.ServerMessage.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"Stream": handler})
        self._server.add_generic_rpc_handlers((handlers,))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        try:
            if certificate is not None and key is not None:
                pair = (key.read_bytes(), certificate.read_bytes())
                secure = grpc.ssl_server_credentials([pair])
                self.port = self._server.add_secure_port(address, secure)
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise ValueError(f"{address} cannot be bound for gRPC; give another --grpc-port")

    async def start(self) -> None:
        await self._server.start()
        await self.serving(True)

    async def serving(self, yes: bool) -> None:
        """What the health service says."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if yes else status.NOT_SERVING)

    async def stop(self) -> None:
        await self._server.stop(grace=1)
