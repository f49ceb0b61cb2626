"""Cameras that speak UDP only, and the options that reach FFmpeg's reader."""

import argparse
import socket
import threading

import pytest

from streamzoo.streaming.commands import reading
from streamzoo.streaming.commands.common import CliError
from streamzoo.streaming.sources import SourceError, open_source

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
)


@pytest.fixture
def camera():
    """(address, transports asked for, user agents): refuses TCP with 461."""
    asked, agents = [], []

    def talk(connection):
        file = connection.makefile("rb")
        while line := file.readline():
            fields = {}
            while text := file.readline().strip():
                key, _, value = text.decode().partition(":")
                fields[key.lower()] = value.strip()
            agents.append(fields.get("user-agent"))
            head, body = f"CSeq: {fields['cseq']}\r\n", ""
            if line.startswith(b"DESCRIBE"):
                head += f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n"
                body = SDP
            if line.startswith(b"SETUP"):
                asked.append(fields["transport"])
            refuse = line.startswith(b"SETUP") and "TCP" in fields["transport"]
            status = "461 Unsupported Transport" if refuse else "200 OK"
            connection.sendall(f"RTSP/1.0 {status}\r\n{head}\r\n{body}".encode())

    def serve():
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/cam", asked, agents
    server.close()


def failure(address, **options):
    with pytest.raises(SourceError) as caught:
        open_source(address, connect_retries=0, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_udp_is_tried_where_tcp_is_refused(camera):
    address, asked, _ = camera
    failure(address)  # it sends no pictures either
    assert "TCP" in asked[0] and any("TCP" not in transport for transport in asked)


def test_tcp_alone_is_said_to_be_refused_and_what_would_do(camera):
    address, asked, _ = camera
    text = failure(address, rtsp_transport="tcp")
    assert "461" in text and "--rtsp-transport udp" in text
    assert all("TCP" in transport for transport in asked)


def test_udp_alone(camera):
    address, asked, _ = camera
    failure(address, rtsp_transport="udp")
    assert asked and all("TCP" not in transport for transport in asked)
    with pytest.raises(SourceError, match="rtsp_transport=quic: give udp, tcp or auto"):
        open_source(address, rtsp_transport="quic")


def test_the_commands_options_reach_the_reader(camera):
    address, asked, agents = camera
    parser = argparse.ArgumentParser()
    reading.options(parser)
    args = parser.parse_args(["--rtsp-transport", "udp", "--option", "user_agent=me=you"])
    failure(address, **reading.reader_of(args))
    assert asked and all("TCP" not in t for t in asked) and "me=you" in agents
    for wrong in ("framerate", "=3"):
        with pytest.raises(CliError, match="write it as NAME=VALUE"):
            reading.reader_of(parser.parse_args(["--option", wrong]))
    nothing = {"rtsp_transport": None, "options": None, "delay": None}
    assert reading.reader_of(parser.parse_args([])) == nothing


@pytest.mark.parametrize("command", ["watch", "track", "serve"])
def test_every_command_that_opens_sources_has_them(command, capsys):
    from streamzoo.streaming.cli import main

    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "--rtsp-transport" in text and "--option" in text
