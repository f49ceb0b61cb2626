"""Failures of the libraries below, as one line: what failed, and what would help."""

from __future__ import annotations

import errno
import traceback

# in which an error is no bug of this package: a disk, a file, another process
LIBRARIES = ("orbax", "tensorstore", "grain", "safetensors", "etils", "array_record", "av",
             "onnxruntime", "tensorboardX", "matplotlib", "PIL")  # fmt: skip
LONGEST = 160
AGAIN = 75  # the exit status that asks to be started again (EX_TEMPFAIL of sysexits.h)
_HELP = {
    errno.ENOSPC: "the disk is full: make room, and the same command goes on",
    errno.EDQUOT: "the quota is used up: make room, and the same command goes on",
    errno.EFBIG: "the file grew larger than this system allows",
    errno.EROFS: "the file system is read-only: give another folder",
    errno.EACCES: "not permitted: give another folder, or the right to write",
}
_WORDS = {"No space left": errno.ENOSPC, "RESOURCE_EXHAUSTED: Error writing": errno.ENOSPC,
          "Disk quota": errno.EDQUOT, "File too large": errno.EFBIG,
          "Read-only file system": errno.EROFS, "Permission denied": errno.EACCES}  # fmt: skip


def one_line(error: BaseException) -> str:
    """The text of an error without line ends, source addresses and repetitions, with help."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        inner = getattr(error, "exceptions", ())  # a group
        error = inner[0] if inner else error.__cause__ or error
    last = chain[-1]
    if isinstance(last, OSError) and last.strerror:
        text = f"{last.filename}: {last.strerror.lower()}" if last.filename else last.strerror
    else:
        text = " ".join(str(last).split("[source locations")[0].split()) or type(last).__name__
    found = next((one.errno for one in chain if isinstance(one, OSError)), None)
    for words, number in _WORDS.items():
        found = number if words in str(last) else found
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return f"{text}; {_HELP[found]}" if found in _HELP else text


def library_of(error: BaseException) -> str:
    """The library in whose code an error came up, "" for this package's own or Python's."""
    frames = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(error.__traceback__)]
    own = str(__package__).partition(".")[0]
    inner = frames[max((i for i, name in enumerate(frames) if name.startswith(own)), default=-1) :]
    found = [name.partition(".")[0] for name in inner]
    kind = type(error).__module__.partition(".")[0]
    return next((name for name in [*found, kind] if name in LIBRARIES), "")
