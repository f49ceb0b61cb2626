"""Whether a file says by its own structure that more of it should follow its last byte.

FFmpeg gives what there is of such files and says nothing: the parts of a fragmented MP4, the
packets of an ASF, the pages of an Ogg are each whole in themselves. Only headers are read here.

What cannot be told, because nothing in the file announces it: a transport or program stream, raw
H.264, JPEG or Y4M, and a fragmented MP4 without `sidx` and `mehd` that is cut right between two
fragments; nor the end of a file that a server has only a part of.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_BROADCAST = 1  # its numbers mean nothing
NUT_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"
OGG_PAGE = 27 + 255 + 255 * 255  # bytes of the largest one
OGG_END = 4  # a page's mark: the last one of its stream
FRAGMENTS = (b"moof", b"mdat", b"sidx", b"mfra")


class Fragments(NamedTuple):
    """seconds: length of all tracks together, by its `mehd`; None where it has none."""

    seconds: float | None


def cut_short(path: str, format: str) -> str | None:
    """Why a file must be cut off, in a few words; None where it is whole or does not say.

    format: FFmpeg's name of its container. Files that cannot be read or understood give None.
    """
    judge = _judge(format)
    if judge is None or not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return judge(file, os.path.getsize(path))
    except (OSError, struct.error, IndexError):
        return None


def fragments(path: str, format: str) -> Fragments | None:
    """What a fragmented MP4 says of itself; None of any other file."""
    if _judge(format) is not _mp4 or not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return _mvex(file, os.path.getsize(path))
    except (OSError, struct.error, IndexError):
        return None


def _judge(format: str) -> Callable[[BinaryIO, int], str | None] | None:
    return next((JUDGES[name] for name in format.split(",") if name in JUDGES), None)


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin of its content, its end) of boxes side by side (ISO 14496-12 4.2)."""
    while begin + 8 <= end:
        file.seek(begin)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        content = begin + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, 8)
            content = begin + 16
        if length < content - begin:  # 0: to the end of the file, or no box at all
            return
        yield kind, content, begin + length
        begin += length


def _mp4(file: BinaryIO, size: int) -> str | None:
    """A fragment is a `moof` and its `mdat`; a `sidx` knows the bytes that follow it. A file
    without fragments has an index, which FFmpeg reads."""
    last, needed, fragmented, at = b"", 0, False, 0
    for kind, content, end in _boxes(file, 0, size):
        fragmented |= kind == b"moof"
        if end > size:  # others may be what a camera leaves behind its video
            cut = fragmented and kind in FRAGMENTS
            return f"its last {kind.decode()} box is cut" if cut else None
        if kind == b"sidx":
            needed = max(needed, _sidx(file, content, end))
        last, at = kind, end
    if fragmented and 0 < size - at < 8:
        return "the head of its last box is cut"
    if needed > size:
        return f"its index (sidx) goes to byte {needed}, it has {size}"
    return "its last fragment has no pictures" if last == b"moof" else None


def _sidx(file: BinaryIO, content: int, end: int) -> int:
    """Where the bytes that an index speaks of end (ISO 14496-12 8.16.3)."""
    file.seek(content)
    data = file.read(end - content)
    at = 12  # version and flags, id, time scale
    form = ">QQ" if data[0] else ">II"
    _, first = struct.unpack_from(form, data, at)
    at += struct.calcsize(form)
    (count,) = struct.unpack_from(">2xH", data, at)
    sizes = (struct.unpack_from(">I", data, at + 4 + 12 * k)[0] for k in range(count))
    return end + first + sum(one & 0x7FFFFFFF for one in sizes)


def _mvex(file: BinaryIO, size: int) -> Fragments | None:
    """Its head speaks of fragments to come, and may know their length (ISO 14496-12 8.8.2)."""
    scale, length, found = 0, 0, False
    for kind, content, end in _boxes(file, 0, size):
        if kind != b"moov" or end > size:
            continue
        for inner, begin, stop in _boxes(file, content, end):
            if inner == b"mvhd":
                file.seek(begin)
                data = file.read(24)
                (scale,) = struct.unpack_from(">I", data, 20 if data[0] else 12)
            elif inner == b"mvex":
                found = True
                for deeper, at, _ in _boxes(file, begin, stop):
                    if deeper == b"mehd":
                        file.seek(at)
                        data = file.read(12)
                        (length,) = struct.unpack_from(">Q" if data[0] else ">I", data, 4)
        break
    return Fragments(length / scale if scale and length else None) if found else None


def _asf(file: BinaryIO, size: int) -> str | None:
    """Its header counts the packets, and says how long each is (ASF 01.20.03, 3.2)."""
    guid, header, objects = struct.unpack("<16sQI2x", file.read(30))
    at = 30
    for _ in range(objects if guid == ASF_HEADER else 0):
        file.seek(at)
        guid, length = struct.unpack("<16sQ", file.read(24))
        if guid == ASF_FILE:
            file.seek(at + 56)
            packets, _, _, _, flags, low, high = struct.unpack("<QQQQIII", file.read(44))
            there = max(0, size - header - 50) // max(1, low)  # 50: head of the data object
            known = not flags & ASF_BROADCAST and low == high
            cut = known and there < packets
            return f"it announces {packets} packets, it has {there}" if cut else None
        at += max(24, length)
    return None


def _nut(file: BinaryIO, size: int) -> str | None:
    """Its index is the last thing in it, and ends with its own length and a checksum."""
    if size >= 12:
        file.seek(size - 12)
        (back,) = struct.unpack(">Q", file.read(8))
        if 12 < back <= size:
            file.seek(size - back)
            if file.read(8) == NUT_INDEX:
                return None
    return "it has no index at its end"


def _ogg(file: BinaryIO, size: int) -> str | None:
    """A stream's last page is marked as such (RFC 3533 section 6)."""
    file.seek(max(0, size - OGG_PAGE))
    tail = file.read()
    at = tail.rfind(b"OggS\0")
    if at >= 0 and at + 27 <= len(tail):
        table = tail[at + 27 : at + 27 + tail[at + 26]]
        whole = at + 27 + tail[at + 26] + sum(table) <= len(tail)
        if whole and tail[at + 5] & OGG_END:
            return None
    return "its last page is not marked as the last one"


def _gif(file: BinaryIO, size: int) -> str | None:
    """Its blocks are followed from one to the next, to the trailer (GIF89a, appendix A)."""

    def byte() -> int:  # beyond the end as a length of 0
        return (file.read(1) or b"\0")[0]

    def skip(count: int) -> None:
        file.seek(count, os.SEEK_CUR)

    def table(flags: int) -> int:  # bytes of a colour table
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    skip(10)
    skip(2 + table(byte()))
    while file.tell() < size:
        kind = byte()
        if kind == ord(","):
            skip(8)
            skip(1 + table(byte()))  # 1: bits of the first codes
        elif kind == ord("!"):
            skip(1)
        else:
            return None  # the trailer, or damaged in another way
        while length := byte():
            skip(length)
    return "it has no trailer"


JUDGES = {"mp4": _mp4, "asf": _asf, "nut": _nut, "ogg": _ogg, "gif": _gif}
