"""`streamzoo serve` as a program: its errors, and what survives kill -9 and SIGTERM."""

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

import streamzoo
from streamzoo.layers.install import how_to_install
from streamzoo.streaming import Session, Step, cli
from streamzoo.streaming.listening import Listener
from streamzoo.streaming.serve.client import Client
from streamzoo.streaming.serve.server import bind
from streamzoo.streaming.serve.sound_client import SoundClient
from streamzoo.streaming.serve.sound_session import record_of
from streamzoo.streaming.sources.sound import sound_of
from streamzoo.streaming.writers import writer

from . import tiny
from .program import free_port, serve, up
from .serving import run
from .small_listener import small_file
from .stub import video

FRAMES = video(9, 60, tiny.SIZE)


@pytest.fixture
def named():
    """The command line so far; the student is registered and has no weights here."""
    streamzoo.zoo.registry.register(tiny.NAME, tiny.CausalViT, tiny.CONFIG, tiny.CARD)
    yield ["serve", "--no-compile-cache", "--model", tiny.NAME]
    tiny.remove()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "tsa-tset16/tiny"], "unknown model"),
        (["--host", "0.0.0.0"], "reached from other machines"),
        (["--port", "99999"], "--port 99999: give a whole number, 0 to 65535"),
        (["--slots", "0"], "--slots 0: give a whole number, at least 1"),
        (["--token-file", "/nowhere"], "token file /nowhere"),
        (["--certificate", "/nowhere"], "TLS needs both"),
        (["--model", "videomae-b16"], "is offline"),
    ],
)
def test_wrong_use_is_one_clear_line(named, capsys, monkeypatch, words, message):
    monkeypatch.delenv("STREAMZOO_TOKEN", raising=False)
    assert cli.main([*named, *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and "Traceback" not in err


def test_a_port_that_is_taken_and_an_extra_that_is_missing(named, capsys, monkeypatch):
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert cli.main([*named, "--port", str(port)]) == 2
        assert f"127.0.0.1:{port} cannot be bound" in capsys.readouterr().err
    find = cli.importlib.util.find_spec
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    assert cli.main(named) == 2
    assert how_to_install("serve") in capsys.readouterr().err


def expected():
    """Class probabilities of a run that nothing interrupts."""
    model, params = streamzoo.load(tiny.NAME)
    with Session(Step(model, params, tiny.CARD)) as session:
        return [
            dict(zip(tiny.CLASSES, tiny.scored(session.push(frame)), strict=False))
            for frame in FRAMES
        ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_goes_on_after_the_server_was_killed(home, tmp_path, number):
    port, log = free_port(), tmp_path / "log"
    address = f"http://127.0.0.1:{port}"
    words = ["--port", port, "--store", tmp_path / "store", "--snapshot-every", "0.1"]

    async def send(client):
        for frame in FRAMES:
            await client.send(frame)
            await asyncio.sleep(0.03)
        await client.finish()

    async def main():
        processes = [serve(home, log, *words)]
        try:
            await up(address, processes[0], log)
            client = Client(address, policy="lossless", budget_ms=60000, patience=120)
            async with client:
                sending = asyncio.create_task(send(client))
                results = [await anext(client) for _ in range(25)]
                processes[0].send_signal(number)
                code = await asyncio.to_thread(processes[0].wait, 30)
                assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL), log.read_text()
                processes.append(serve(home, log, *words))
                results += [result async for result in client]
                await sending
                assert client.reconnects == 1 and client.missed == client.lost == 0
                assert client.end["reason"] == "finished"
            assert [r.index for r in results] == list(range(len(FRAMES)))
            for result, want in zip(results, expected(), strict=True):
                for name in tiny.CLASSES:
                    np.testing.assert_allclose(result.classes[name], want[name], atol=1e-5)
            processes[1].terminate()
            assert await asyncio.to_thread(processes[1].wait, 30) == 0, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            for process in processes:
                process.kill()

    run(main(), 240)


@pytest.mark.slow
def test_words_go_on_after_the_server_was_killed(home, tmp_path):
    """The program itself, SIGKILL while somebody speaks: the words of a listener that is not
    interrupted, each once."""
    clip = Path(__file__).parents[3] / "shared/data/speech/beckett.wav"
    if not clip.is_file():
        pytest.skip("needs a recording of speech")
    sound = np.concatenate([*sound_of(clip, print)])
    pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
    model, port, log = small_file(tmp_path), free_port(), tmp_path / "log"
    address = f"http://127.0.0.1:{port}"
    words = ["--port", port, "--store", tmp_path / "store", "--snapshot-every", "0.1"]
    words += ["--listen", model, "--ttl", "900"]

    async def main():
        processes = [serve(home, log, *words)]
        try:
            await up(address, processes[0], log)
            async with SoundClient(address, patience=240) as client:
                await client.send(pcm[: len(pcm) // 2])
                records = [await anext(client) for _ in range(3)]
                await asyncio.sleep(0.5)
                processes[0].kill()
                await asyncio.to_thread(processes[0].wait, 30)
                processes.append(serve(home, log, *words))
                await client.send(pcm[len(pcm) // 2 :], waiting=1 << 60)
                await client.finish()
                records += [record async for record in client]
                assert client.reconnects == 1
                books = client.end["samples"]
            assert books["received"] == books["heard"] == len(pcm) and not books["dropped"]
            listener = Listener(begin=writer(str(model), 15.0, None, shown=True))
            said = [*listener.push(pcm.astype(np.float32) / 32768), *listener.flush()]
            want = [record_of(u) for u in said if u.fresh or u.final]
            keys = want[0].keys() | want[-1].keys()
            assert [{k: r[k] for k in r if k in keys} for r in records] == want and len(want) > 5
            assert "Traceback" not in log.read_text()
        finally:
            for process in processes:
                process.kill()

    run(main(), 500)
