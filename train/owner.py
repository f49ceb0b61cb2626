"""Whose the folder of a run is: one run at a time, by a file with a heartbeat.

The file names the process that writes into the folder. A second run finds it and says so. An owner
that is gone is recognised at once where both ran on one machine, and on another machine, or in
another container, by its silence: the file's time stands still. Times are compared with that of a
file written into the same folder, so clocks of hosts need not agree.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..layers.streaming import Json

FILE = "owner.json"
BEAT = 5.0  # seconds between two signs of life
SILENT = 60.0  # seconds without one after which an owner is gone


class FolderInUse(RuntimeError):
    """Another run writes into the folder."""


class Owner:
    """Holds a folder while entered.

    Args:
      log: gets a line when an owner elsewhere has to be waited for.

    Raises (entering, and :meth:`check`):
      FolderInUse: another run has the folder, or took it over while this one stood still.
    """

    def __init__(
        self,
        folder: str | Path,
        log: Callable[[str], None] = print,
        *,
        beat: float = BEAT,
        silent: float = SILENT,
    ):
        self.path = Path(folder).resolve() / FILE
        self._log, self._beat, self._silent = log, beat, silent
        self._token = uuid.uuid4().hex
        self._end = threading.Event()
        self._lost = False

    def __enter__(self) -> Owner:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            self._remove_dead()
        threading.Thread(target=self._live, name="owner of a run", daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._end.set()
        if (read(self.path) or {}).get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises FolderInUse where another run has taken the folder over."""
        if self._lost:
            raise FolderInUse(
                f"{self.path.parent}: another run took this folder over while this one gave no "
                f"sign of life for {self._silent:g} s; that one goes on"
            )

    def _create(self) -> bool:
        record = {"token": self._token, **_self(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        # written apart and linked, so that nobody reads a half
        part = self.path.with_name(f".{FILE}.{self._token}")
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
        try:
            os.link(part, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except FileExistsError:
                return False
        finally:
            part.unlink(missing_ok=True)
        return True

    def _remove_dead(self) -> None:
        found, seen = read(self.path), _stamp(self.path)
        if seen is None:
            return  # gone meanwhile
        if not self._gone(found, seen):
            who = f"process {found['pid']} on {found['host']}" if found else "another run"
            since = f", since {found['since']}" if found else ""
            raise FolderInUse(
                f"{self.path.parent} is in use by {who}{since}: wait for it or stop it, or give "
                "another loop.out"
            )
        # of two that saw the same owner die one moves its file away
        grave = self.path.with_name(f".{FILE}.dead.{self._token}")
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return
        if (read(grave) or {}).get("token") != (found or {}).get("token"):
            os.replace(grave, self.path)  # that of a new owner, which was faster
            return
        grave.unlink(missing_ok=True)

    def _gone(self, found: Json | None, seen: tuple[float, ...]) -> bool:
        mine = _self()
        if found is not None and all(found[k] == mine[k] for k in ("boot", "space")):
            return _started(found["pid"]) != found["started"]
        end, told = time.monotonic() + self._silent, False
        while time.monotonic() < end:
            if self._age(seen) >= self._silent:
                return True
            if not told:
                told = True
                host = found["host"] if found else "another host"
                self._log(
                    f"{self.path.parent} was in use by {host} a moment ago: waiting up to "
                    f"{self._silent:g} s for a sign of life"
                )
            time.sleep(min(0.5, self._beat))
            if _stamp(self.path) != seen:
                return _stamp(self.path) is None
        return True

    def _age(self, seen: tuple[float, ...]) -> float:
        # by the clock that stamped the owner's file
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".now.") as probe:
            return os.stat(probe.name).st_mtime - seen[0]

    def _live(self) -> None:
        while not self._end.wait(self._beat):
            try:
                if (read(self.path) or {}).get("token") != self._token:
                    self._lost = not self._end.is_set()
                    return
                os.utime(self.path)
            except OSError:
                continue  # a file system that is away for a moment


def read(path: Path) -> Json | None:
    """What an owner's file says; None where it is not there or not whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {"token", "host", "boot", "space", "pid", "started", "since"}
        return found if known <= found.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _stamp(path: Path) -> tuple[float, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime, found.st_ino


def _self() -> Json:
    """This process, and the machine and container whose process numbers are its own."""

    def told(path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    boot = told("/proc/sys/kernel/random/boot_id") or platform.node()
    pid = os.getpid()
    return {
        "host": platform.node(), "boot": boot, "space": space, "pid": pid,
        "started": _started(pid),
    }  # fmt: skip


def _started(pid: int) -> str:
    """When a process of this machine began, "" where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        try:
            os.kill(pid, 0)  # no /proc: only whether it is there
        except ProcessLookupError:
            return ""
        except OSError:
            pass
        return "running"
    return "" if fields[0] in "ZX" else fields[19]
