"""A run's folder has one owner: who is alive keeps it, who is gone loses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from streamzoo.train import owner
from streamzoo.train.owner import FILE, FolderInUse, Owner

HOLD = """
import sys, time
from streamzoo.train.owner import Owner
with Owner(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def quick(folder, lines=None, silent=1.0):
    """An owner that looks often and loses patience soon."""
    return Owner(folder, (lines if lines is not None else []).append, beat=0.05, silent=silent)


def elsewhere(folder, **changes):
    """Makes the owner's file one of another machine; its process number is of nobody here."""
    path = Path(folder) / FILE
    record = json.loads(path.read_text()) | {"boot": "other", "host": "far", "pid": 1} | changes
    path.write_text(json.dumps(record))


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_told_who_has_the_folder(holder, tmp_path):
    with pytest.raises(FolderInUse) as error, Owner(tmp_path):
        pass
    text = str(error.value)
    assert f"{tmp_path} is in use by process {holder.pid}" in text and "loop.out" in text
    assert "\n" not in text and owner.read(tmp_path / FILE)  # and it is still theirs


def test_who_was_killed_here_loses_the_folder_at_once(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    # dead, and still listed: it is not reaped
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    with Owner(tmp_path, silent=600):
        found = owner.read(tmp_path / FILE)
        assert found and found["pid"] == os.getpid()
    assert time.monotonic() - began < 60
    assert not (tmp_path / FILE).exists() and not list(tmp_path.iterdir())


def test_another_process_with_the_number_of_the_dead_one_is_not_the_owner(tmp_path):
    with quick(tmp_path):
        record = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(record | {"started": "1"}))  # of an earlier one
    with quick(tmp_path):
        pass


def test_an_owner_on_another_host_lives_while_its_file_changes(tmp_path):
    lines, stop = [], threading.Event()
    with quick(tmp_path):
        elsewhere(tmp_path)
        path = tmp_path / FILE

        def beat():
            while not stop.wait(0.1):
                os.utime(path)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(FolderInUse, match="process 1 on far"):
                with quick(tmp_path, lines, silent=30):
                    pass
            assert path.exists()  # the other's file stays
        finally:
            stop.set()
            thread.join()
    assert "a sign of life" in lines[0]


@pytest.mark.parametrize("content", ["whole", "empty", "words"])
def test_a_silent_owner_elsewhere_is_gone(tmp_path, content):
    lines = []
    with quick(tmp_path):
        elsewhere(tmp_path)
        kept = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text({"whole": kept, "empty": "", "words": "[1"}[content])
    with quick(tmp_path, lines):
        found = owner.read(tmp_path / FILE)
        assert found and found["pid"] == os.getpid()
    assert len(lines) == 1


def test_one_that_is_silent_for_long_is_not_waited_for(tmp_path):
    (tmp_path / FILE).write_text("{}")
    old = time.time() - 3600
    os.utime(tmp_path / FILE, (old, old))
    lines, began = [], time.monotonic()
    with quick(tmp_path, lines, silent=300):
        pass
    assert time.monotonic() - began < 60 and not lines


def test_of_many_that_find_a_dead_owner_one_gets_the_folder(tmp_path):
    with quick(tmp_path):
        elsewhere(tmp_path)
        kept = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(kept)
    old = time.time() - 3600
    os.utime(tmp_path / FILE, (old, old))
    got, together, leave = [], threading.Barrier(8), threading.Event()

    def enter():
        together.wait()
        try:
            with quick(tmp_path):
                got.append(True)
                leave.wait(60)
        except FolderInUse:
            got.append(False)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(got) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    leave.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    assert not list(tmp_path.iterdir())


def test_who_stood_still_and_was_replaced_stops(tmp_path):
    with quick(tmp_path) as mine:
        mine.check()
        record = json.loads((tmp_path / FILE).read_text())
        (tmp_path / FILE).write_text(json.dumps(record | {"token": "another"}))
        deadline = time.monotonic() + 60
        while not mine._lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(FolderInUse, match="took this folder over"):
            mine.check()
    assert (tmp_path / FILE).exists()  # it is the other's


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    with quick(tmp_path), pytest.raises(FolderInUse), quick(tmp_path):
        pass
