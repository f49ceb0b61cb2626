"""Addresses as they may be shown: in messages, logs, reports, and as names of files.

Cameras carry their secrets wherever their makers put them: `user:password@`, a user alone, the
query, `user=..._password=...` in the path, two segments of it, or a stream key at its end. So
what is shown is a short list of what is no secret: the scheme, the host and its port, and the last
segment of the path where it reads as a name. All else becomes `***` or `...`:

    rtsp://admin:pw@10.0.0.5/Streaming/Channels/101    rtsp://***@10.0.0.5/.../101
    http://10.0.0.5/video.cgi?user=admin&pwd=pw        http://10.0.0.5/video.cgi?***
    rtmp://10.0.0.5/live/stream-key                    rtmp://10.0.0.5/.../***
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
FOUND = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")  # an address in a text
# `user:pw@host`, `rtsp:/user:pw@host`
MISTYPED = re.compile(r"^([A-Za-z]+:/)?(?!.*\*\*\*@)[^/\s@]*:[^\s@]*@")
HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._~-]+|\*\*\*)(:\d{0,5})?")
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
PAIR = re.compile(
    r"(?i)\b([a-z_-]*(?:pass(?:wo?r?d|phrase|wd|code)?|pwd|secret|token|api_?key|auth|signature))"
    r"(=|%3D|:(?=\S))(?!\*\*\*)[^\s&;,'\")]+"
)
KEYED = {"rtmp", "rtmps", "rtmpt", "rtmpe", "srt"}  # the end of their path is the key to the stream


def redact(address: str) -> str:
    """The address without anything that may be a secret. Files and cameras stay as they are, and
    what is redacted already too."""
    match = SCHEME.match(address)
    if match is None:
        return PAIR.sub(r"\1\2***", MISTYPED.sub(r"\1***@", address))
    scheme, rest = match[1], address[match.end() :]
    if scheme.lower() == "file":
        return address
    user, host, tail = _split(scheme.lower(), rest)
    path, mark, _ = tail.partition("?")
    path, _, _ = path.partition("#")
    segments = [s for s in path.split("/") if s]
    shown = f"{scheme}://{'***@' * user}{host}"
    if segments:
        last = segments[-1]
        plain = last == "***" or (scheme.lower() not in KEYED and _is_name(last))
        shown += "/" + ".../" * (len(segments) > 1) + (last if plain else "***")
    elif path:
        shown += "/"
    return shown + "?***" * bool(mark)


def _split(scheme: str, rest: str) -> tuple[bool, str, str]:
    """(whether there is a user, host and port, what follows them). A password with `/`, `?`, `#`
    or `@` in it, which should have been encoded, ends at the last `@`."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    early = rest.partition("?")[0]
    last = early.rfind("@")  # also one that is part of the path: better hidden than shown
    slash, query = rest.find("/"), rest.find("?")
    if scheme != "srt" and "@" in rest[query + 1 :] and query > -1 and not -1 < slash < query:
        last = rest.rfind("@")  # no path before the `?`: it is in the password
    if last < 0 and not HOST.fullmatch(authority):
        last = rest.rfind("@")
    after = rest[last + 1 :]
    authority = re.split(r"[/?#]", after, maxsplit=1)[0]
    host = authority if HOST.fullmatch(authority) else "***" * bool(authority)
    return last >= 0, host, after[len(authority) :]


def _is_name(segment: str) -> bool:
    """Whether a segment of a path reads as a name: no pairs, no escapes, nothing random."""
    if not NAME.fullmatch(segment):
        return False
    words = re.split(r"[._-]", segment)
    mixed = lambda w: re.search(r"\d", w) and re.search(r"[A-Za-z]", w)
    return not any(len(w) >= 12 and mixed(w) or len(w) >= 24 for w in words)


def label(address: str) -> str:
    """A short name for an address: the last segment of its path if it is one, else its host."""
    shown = redact(address)
    match = SCHEME.match(shown)
    if match is None:
        return shown
    host, _, path = shown[match.end() :].removeprefix("***@").partition("/")
    host = re.sub(r":\d*$", "", host.partition("?")[0]).strip("[]").replace("***", "")
    last = path.partition("?")[0].rpartition("/")[2]
    name = last.rpartition(".")[0] or last
    return name if name.strip(".") and last != "***" else host


def scrub(text: str, *addresses: str) -> str:
    """A text, such as a library's error, in which every address is redacted; of those given, what
    is secret in them also where it stands alone."""
    text = FOUND.sub(_redact_found, _without(text, addresses))
    return PAIR.sub(r"\1\2***", text)


def _without(text: str, addresses: Iterable[str]) -> str:
    for address in addresses:
        if "://" not in address and "@" not in address:
            continue
        text = text.replace(address, redact(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, "***")
    return text


def _redact_found(match: re.Match[str]) -> str:
    found = match[0]
    address = found.rstrip(".,;:!)]}")
    return redact(address) + found[len(address) :]


def _secrets(address: str) -> Iterator[str]:
    """What :func:`redact` hides, piece by piece, as written and decoded; no pieces so short that
    they would be found everywhere."""
    match = SCHEME.match(address)
    if match is None or match[1].lower() == "file":
        return
    rest, shown = address[match.end() :], redact(address)
    _, host, tail = _split(match[1].lower(), rest)
    user = rest[: len(rest) - len(host) - len(tail)].rstrip("@") if host != "***" else rest
    name, _, password = user.partition(":")
    hidden = password or name  # beside a password the name is none
    pieces = [user, hidden, tail]
    pieces += [unquote(piece) for piece in pieces]
    parts = (part for piece in pieces[1:] for part in re.split(r"[/?&;#=@:]", piece))
    for piece in {*pieces, *parts}:
        if len(piece) >= 4 and piece not in shown:
            yield piece


def scrub_error(error: BaseException | None, *addresses: str) -> None:
    """Takes the secrets of these addresses out of an exception and of those behind it, where they
    are: a stack trace shows all of them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        clean = lambda a: _without(a, addresses) if isinstance(a, str) else a
        error.args = tuple(map(clean, error.args))
        name = getattr(error, "filename", None)
        if isinstance(name, str) and clean(name) != name:
            setattr(error, "filename", clean(name))  # noqa: B010  of OSError alone
        error = error.__cause__ or error.__context__
