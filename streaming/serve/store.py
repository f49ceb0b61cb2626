"""Snapshots on disk, and leases that keep two processes from writing the same session.

A folder per session:

    epoch-00000003                       its lease: who made the highest number owns the session
    carry-00000003-00000041.safetensors  state 41 that the owner of epoch 3 has saved

An epoch is claimed by creating its file with O_EXCL, so that one process only gets it. A snapshot
is written aside, synced, checked against the highest epoch and renamed into place: it is there
whole or not at all, and an owner whose epoch has passed is refused. Should one slip through between
the check and the rename, its name still carries the old epoch, and a claim first takes the newest
state over under its own epoch: what an older one adds later is never read.

Needs a file system with atomic rename, hard links and O_EXCL: any local one, and NFS from v3.
Arrays are stored as safetensors, never as pickles.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...layers.streaming import Json
from ...zoo.errors import WeightsError
from ...zoo.files import read_tensors

log = logging.getLogger("streamzoo.serve")
EPOCH = re.compile(r"epoch-(\d{8})")
CARRY = re.compile(r"carry-(\d{8})-(\d{8})\.safetensors")
KEPT = 2  # states per session: should the newest be damaged, there is one before it


class StaleWriter(RuntimeError):
    """Another process has claimed the session since: this one's state is not wanted any more."""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Store:
    """A folder of sessions by key. Raises ValueError: it cannot be written."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"store {folder}: it cannot be written ({error.strerror})") from None

    def __contains__(self, key: str) -> bool:
        return (self.folder / key).is_dir()

    def claim(self, key: str) -> Lease:
        """Makes the caller the owner of a session, new or old; whoever was it before is refused
        from now on."""
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            epoch = highest(folder) + 1
            try:
                path = folder / f"epoch-{epoch:08d}"
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            except FileExistsError:
                continue  # somebody was faster; so be it
            os.fsync(handle)
            os.close(handle)
            _sync(folder)
            return Lease(folder, epoch)

    def sweep(self, age: float) -> int:
        """Removes sessions whose newest file is older than ``age`` seconds; returns how many."""
        removed = 0
        for folder in self.folder.iterdir():
            files = [*folder.iterdir()] if folder.is_dir() else []
            if files and max(f.stat().st_mtime for f in files) < time.time() - age:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed


def highest(folder: Path) -> int:
    """The newest epoch of a session; 0: there is none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max([int(m[1]) for n in names if (m := EPOCH.fullmatch(n))], default=0)


class Lease:
    """The right to write one session, until somebody else claims it."""

    def __init__(self, folder: Path, epoch: int):
        self._folder, self.epoch = folder, epoch
        self._number = 0
        self._adopt()

    def _states(self) -> list[tuple[int, int, Path]]:
        found = [(CARRY.fullmatch(p.name), p) for p in self._folder.iterdir()]
        return sorted((int(m[1]), int(m[2]), p) for m, p in found if m)

    def _adopt(self) -> None:
        """The newest states, under this epoch: links, so that nothing is copied."""
        for number, (_, _, path) in enumerate(self._states()[-KEPT:]):
            os.link(path, self._path(number))
            self._number = number + 1
        _sync(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"carry-{self.epoch:08d}-{number:08d}.safetensors"

    def check(self) -> None:
        """Raises StaleWriter: the session is another's; FileNotFoundError: the store is gone."""
        newest = highest(self._folder)
        if newest == 0:
            raise FileNotFoundError(f"{self._folder} is gone")
        if newest != self.epoch:
            raise StaleWriter(f"epoch {newest} has claimed the session; this is {self.epoch}")

    def load(self) -> tuple[Json, dict[str, np.ndarray]] | None:
        """(plain data, arrays) of the newest state that is whole; None: there is none."""
        for epoch, _, path in reversed(self._states()):
            if epoch != self.epoch:
                continue
            try:
                arrays, header = read_tensors(path)
                return json.loads(header["session"]), arrays
            except (WeightsError, KeyError, ValueError) as error:
                log.warning("a snapshot is damaged and passed over: %s", error)
        return None

    def save(self, plain: Json, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a state. Raises StaleWriter, and OSError where the store fails."""
        from safetensors.numpy import save

        self.check()
        solid = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        data = save(solid, metadata={"session": json.dumps(plain)})
        part = self._folder / f".part-{self.epoch:08d}"
        handle = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.check()  # again, as late as can be
            os.replace(part, self._path(self._number))
        finally:
            part.unlink(missing_ok=True)
        _sync(self._folder)
        self._number += 1
        self._tidy()

    def _tidy(self) -> None:
        states = self._states()
        own = [path for epoch, _, path in states if epoch == self.epoch]
        for path in [p for epoch, _, p in states if epoch < self.epoch] + own[:-KEPT]:
            path.unlink(missing_ok=True)
        for path in self._folder.iterdir():
            match = EPOCH.fullmatch(path.name)
            if match and int(match[1]) < self.epoch:
                path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Forgets the session, unless it is another's by now."""
        try:
            self.check()
        except (StaleWriter, OSError):
            return
        shutil.rmtree(self._folder, ignore_errors=True)
