"""Whose a file of results is: one run's at a time, and nobody's is replaced without being asked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there a new file is still ours alone, by O_EXCL
    fcntl = None


class OutputError(ValueError):
    """An output file that cannot be written; the message names it and the remedy."""


def check_writable(path: Path) -> None:
    """Raises `OutputError` if no file can be written at this path."""
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; make it first")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file name")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise OutputError(f"{path}: no permission to write there; choose another folder")


class Claim:
    """A file that this run alone writes, from now until :meth:`release`.

    The claim is a lock of the operating system on the file, which ends with the process however
    that ends: a run that was killed is in nobody's way. A file that has something in it is claimed
    only to ``overwrite`` it, by whoever writes to it next. Where files cannot be locked (some
    network file systems) only a new or an overwritten one is taken.

    Attributes:
      path: of the file, which is there.

    Raises:
      OutputError: another run is writing it, there are results in it, or it cannot be written.
    """

    def __init__(self, path: str | Path, overwrite: bool = False):
        self.path = Path(path)
        self._handle: int | None = None
        check_writable(self.path)
        if self.path.exists() and not self.path.is_file():
            return  # a pipe or a device: there is nothing to lose
        try:
            while not self._take(overwrite):
                pass
        except BaseException as error:
            self._drop()  # and nothing else: it may be another run's
            if isinstance(error, OSError):
                why = (error.strerror or "unknown reason").lower()
                raise OutputError(f"{self.path}: cannot be written ({why})") from None
            raise

    def _take(self, overwrite: bool) -> bool:
        """False: the file was removed in between."""
        try:
            self._handle, new = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            self._handle, new = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), False
        locked = self._lock(self._handle)
        found = os.fstat(self._handle)
        if not self.path.exists() or not os.path.samestat(found, self.path.stat()):
            self._drop()
            return False
        if not overwrite and (found.st_size or not (new or locked)):
            raise OutputError(
                f"{self.path}: results of an earlier run are there; --overwrite replaces them, "
                "another folder keeps both"
            )
        return True

    def _lock(self, handle: int) -> bool:
        if fcntl is None:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self.path}: another run is writing it; give another folder, or let it end first"
            ) from None
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Lets others have it, and leaves no empty file behind. Again without harm."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                found = os.fstat(self._handle)
                if found.st_size == 0 and os.path.samestat(found, self.path.stat()):
                    self.path.unlink()  # still ours: the lock goes after it
            self._drop()

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
