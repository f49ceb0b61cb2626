"""Secrets of addresses: wherever a camera's maker put them, no message, name or log shows them."""

import http.server
import itertools
import json
import logging
import threading
import traceback

import pytest

from streamzoo.streaming import cli
from streamzoo.streaming.commands.watching import STEM, stem_of
from streamzoo.streaming.serve.command import Scrubbed
from streamzoo.streaming.serve.limits import LETTERS, ServeError
from streamzoo.streaming.sources import SourceError, open_source
from streamzoo.streaming.sources.redaction import label, redact, scrub, scrub_error

SECRET = "hunter2"
PASSWORDS = (
    SECRET,
    f"x/{SECRET}",
    f"x@{SECRET}",
    f"{SECRET}?",
    f"12#{SECRET}",
    f"12?{SECRET}",
    f"{SECRET}:",
    f"%2F{SECRET}%40",
    f"a b{SECRET}",
    f"[{SECRET}",
    f"ü{SECRET}",
    f"{SECRET}'\"",
)
HOSTS = ("127.0.0.1:1", "[::1]:1", "cam.example")
PLACES = (
    "http://{host}/videostream.cgi?user=admin&pwd={secret}",
    "https://{host}/live.m3u8?token={secret}#t={secret}",
    "https://{host}/live.m3u8#{secret}",
    "rtsp://{host}/user=admin&password={secret}&channel=1&stream=0.sdp",
    "rtsp://{host}/user=admin_password={secret}_channel=1_stream=0.sdp?real_stream",
    "http://{host}/live/admin/{secret}/12.ts",
    "http://{host}/%75ser%3D{secret}",
    "rtmp://{host}/live/{secret}",
    "rtmps://{host}/live/{secret}?x",
    "srt://{host}?passphrase={secret}{secret}",
    "srt://{host}?streamid=publish:{secret}@x",
    "rtsp:/admin:{secret}@{host}/cam",
    "admin:{secret}@{host}/cam",
)
ADDRESSES = [
    f"{scheme}://{user}@{host}/cam"
    for scheme, password, host in itertools.product(("rtsp", "http", "rtsps"), PASSWORDS, HOSTS)
    for user in (f"admin:{password}", f":{password}", password)
] + [place.format(host=host, secret=SECRET) for place in PLACES for host in HOSTS]


def test_no_place_of_an_address_shows_its_secret():
    for address in ADDRESSES:
        shown = redact(address)
        told = scrub(f"no answer [{address}]: timed out", address)
        for text in (shown, label(address), stem_of(address), told):
            assert SECRET not in text, address
        assert redact(shown) == shown  # so that it may be done twice


def test_pieces_that_a_library_repeats_are_known_again():
    for address in (
        f"http://admin:{SECRET}@host/x", f"http://admin:x/{SECRET}@host/x", f"http://{SECRET}@host",
        f"http://host/{SECRET}/x?y", f"srt://host?passphrase={SECRET}", f"http://a:%40{SECRET}@host/x",
    ):  # fmt: skip
        assert scrub(f"no port '{SECRET}' in host", address) == "no port '***' in host"
    assert scrub("x is no user", "http://x:y@host/z") == "x is no user"  # too short to be told


def test_what_is_no_secret_is_still_shown():
    for address, shown in {
        "rtsp://10.0.0.5:554/Streaming/Channels/101": "rtsp://10.0.0.5:554/.../101",
        "rtsp://a:b@cam.example/h264Preview_01_main": "rtsp://***@cam.example/h264Preview_01_main",
        "https://host/videos/street.mp4?x=1": "https://host/.../street.mp4?***",
        "rtsps://10.0.0.1:7441/AbCdEfGh12345678": "rtsps://10.0.0.1:7441/***",
        "rtsp://a:x@b@cam.example/x": "rtsp://***@cam.example/x",
        "https://host/": "https://host/",
        "file:///videos/a=b.mp4": "file:///videos/a=b.mp4",
        "/videos/a@b:c.mp4": "/videos/a@b:c.mp4",
        "/dev/video0": "/dev/video0",
    }.items():
        assert redact(address) == shown
        assert scrub(f"{shown}: cannot be read; see it") == f"{shown}: cannot be read; see it"
    assert scrub("rtsp://h/cam: no; try http://h/cam.") == "rtsp://h/cam: no; try http://h/cam."


def test_names_of_results_are_bounded():
    for name in ("x" * 300, "ü" * 300, "x" * 299 + "y"):
        assert len(stem_of(f"{name}.mp4").encode()) <= STEM
        assert len(stem_of(f"http://host/{name}.mp4").encode()) <= STEM
    assert stem_of("x" * 300 + ".mp4") != stem_of("x" * 299 + "y.mp4")


@pytest.fixture(scope="module")
def web():
    """(address of a server that redirects to a secret and never has a video)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if SECRET in self.path else 302)
            self.send_header("Location", f"/{SECRET}/x.mp4?token={SECRET}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_errors_of_sources_and_what_is_behind_them(web):
    for address in (
        f"http://a:{SECRET}@{web}/v.mp4",
        f"http://{web}/v?pw={SECRET}",
        f"http://{web}/v",
    ):
        with pytest.raises(SourceError) as caught:
            open_source(address, connect_retries=0)
        assert SECRET not in str(caught.value) and web in str(caught.value)
        scrub_error(caught.value, address)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in str(SourceError(f"x: {address}?pw={SECRET}"))


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_the_command_line_repeats_none(web, capsys, tmp_path, debug):
    address = f"http://admin:x/{SECRET}@{web}/v.mp4?pwd={SECRET}"
    words = ["watch", address, "--model", "tsa-ti16", "--random-weights", "--no-video", *debug]
    try:
        code = cli.main([*words, "--out", str(tmp_path)])
        assert code == 2
    except ValueError as error:
        assert debug
        traceback.print_exception(error)
    assert cli.main(["watch", "a.mp4", address]) == 2  # a slip beside the address
    said = "".join(capsys.readouterr())
    assert SECRET not in said and web in said


def test_logs_and_what_clients_are_told(caplog):
    url = f"rtsp://a:{SECRET}@host/cam"
    error = ServeError("bad_source", f"{url}: no; passphrase={SECRET}")
    assert SECRET not in str(error) and len(str(ServeError("x", "y" * 10**7))) <= LETTERS
    try:
        raise RuntimeError(url)
    except RuntimeError:
        logging.getLogger("streamzoo.serve").exception("on %s", url)
    line = Scrubbed("%(message)s").format(caplog.records[-1])
    assert "Traceback" in line and "rtsp://***@host/cam" in line and SECRET not in line
    assert SECRET not in json.dumps(scrub(json.dumps({"url": url, "x": f"token={SECRET}"})))
