"""Raw bytes to a server in this process, as a client, a browser or a scanner writes them."""

import asyncio

import grpc
import grpc.aio

from streamzoo.streaming.serve import streamzoo_serve_pb2 as pb


async def talk(server, *parts, pause=0.0, half=False):
    """What the server answers to raw bytes until it closes."""
    host, port = server.address.rpartition("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        if half:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


def request(method="GET", path="/streams", body=b"", **headers):
    headers = {"Host": "localhost", "Connection": "close"} | headers
    if body:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{k.replace('_', '-')}: {v}" for k, v in headers.items() if v is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


def status(answer):
    return int(answer.split()[1])


async def grpc_opens(link, metadata=(), data=None):
    """The code of the refusal, None if a stream opened; ``data``: the raw first message."""
    make = link.stream_stream(
        "/streamzoo.serve.v1.Streams/Stream", lambda m: m, pb.ServerMessage.FromString
    )
    stream = make(metadata=metadata)
    first = pb.ClientMessage(open=pb.Open(policy="lossless", budget_ms=60000)).SerializeToString()
    try:
        await stream.write(first if data is None else data)
        assert (await stream.read()).WhichOneof("message") == "opened"
        return None
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        stream.cancel()
