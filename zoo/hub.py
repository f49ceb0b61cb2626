"""Downloads from the Hugging Face Hub, into the hub client's own cache.

``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_HUB_CACHE`` are read at every call (the
client itself reads them once, at import). The client asks a host that cannot be reached again and
again, for most of a minute; here it is tried once, for ``PATIENCE`` seconds, and then the cache
alone is read.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from .errors import WeightsError

_SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<rev>[^:@\s]+))?(?::(?P<file>[^:\s]+))?")


class HubError(WeightsError):
    """The hub gave no file."""


class NotFoundError(HubError):
    """The hub was asked and has no such file, revision or repository."""


class UnavailableError(HubError):
    """The cache has no such file and the hub did not give it; it may well have it."""


class OfflineError(UnavailableError):
    """The hub could not be asked."""


@dataclass(frozen=True)
class HubFile:
    """One file of one revision of a model repository."""

    repo: str
    revision: str
    file: str

    def __str__(self) -> str:
        return f"hf:{self.repo}@{self.revision}:{self.file}"


def parse(spec: str, file: str | None = None) -> HubFile:
    """Reads "hf:owner/repo[@rev][:file]"; revision "main" and ``file``, or
    "model.safetensors", by default. Raises WeightsError.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise WeightsError(f"{spec!r} is not hf:owner/repo[@revision][:file]")
    name = match["file"] or file or "model.safetensors"
    if not name.endswith(".safetensors"):
        raise WeightsError(f"{spec!r}: only .safetensors files are downloaded, never pickles")
    return HubFile(match["repo"], match["rev"] or "main", name)


def _true(name: str) -> bool:
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}


PATIENCE = 3.0  # seconds in which a host must take a connection
_KNOWN = 30.0  # seconds for which the outcome counts
_reached: dict[str, tuple[float, str]] = {}


def _out_of_reach(endpoint: str) -> str:
    """Why the endpoint takes no connection, "" if it does or if a proxy stands between."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    through = urllib.request.getproxies()
    if parts.scheme in through and not urllib.request.proxy_bypass(host):
        return ""
    when, why = _reached.get(endpoint, (-_KNOWN, ""))
    if time.monotonic() - when < _KNOWN:
        return why
    port = parts.port or (80 if parts.scheme == "http" else 443)
    found = [f"no answer within {PATIENCE:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
            found[0] = ""
        except socket.gaierror:
            found[0] = f"the host {host} cannot be resolved"
        except OSError as error:
            found[0] = (error.strerror or str(error) or type(error).__name__).lower()

    # resolving a name has no time limit of its own
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE + 0.5)
    _reached[endpoint] = time.monotonic(), found[0]
    return found[0]


def download(source: HubFile) -> Path:
    """The local path of a file, downloaded unless the cache has it.

    Raises NotFoundError if the hub has no such file, UnavailableError if it could not be asked or
    answered otherwise, saying which endpoint or cache was asked and what it said; WeightsError for
    a download that broke off.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as hub_errors

    offline = _true("HF_HUB_OFFLINE") or constants.HF_HUB_OFFLINE
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    cache = os.environ.get("HF_HUB_CACHE")
    if cache is None and "HF_HOME" in os.environ:
        cache = str(Path(os.environ["HF_HOME"]) / "hub")
    cache = str(Path(cache or constants.HF_HUB_CACHE).expanduser())
    away = "" if offline else _out_of_reach(endpoint)
    kind: type[HubError] = NotFoundError
    try:
        return Path(
            hf_hub_download(
                source.repo,
                source.file,
                revision=source.revision,
                cache_dir=cache,
                endpoint=endpoint,
                local_files_only=offline or bool(away),
                library_name="streamzoo",
            )
        )
    except hub_errors.LocalEntryNotFoundError as error:
        kind = OfflineError if offline or away else UnavailableError
        if offline:
            why = f"offline, HF_HUB_OFFLINE is set, and not in the cache {cache}"
        else:
            said = _status(error.__cause__)
            said = said or "cannot be reached" + (f" ({away})" if away else "")
            why = f"{endpoint} {said}, and not in the cache {cache}"
    except hub_errors.RevisionNotFoundError:
        why = f"{endpoint} has no such revision"
    except hub_errors.EntryNotFoundError:
        why = f"{endpoint} has no such file"
    except hub_errors.GatedRepoError as error:
        kind, why = UnavailableError, f"{endpoint} {_status(error)}"
    except hub_errors.RepositoryNotFoundError:
        why = f"{endpoint} has no such repository, or it needs a token (HF_TOKEN)"
    except hub_errors.HfHubHTTPError as error:
        kind, why = UnavailableError, f"{endpoint} {_status(error)}"
    except hub_errors.HFValidationError as error:
        raise WeightsError(f"{source}: {_line(error)}") from None
    except Exception as error:
        # the client lets its HTTP library's own exceptions through, whichever that is
        raise WeightsError(
            f"{source}: the download from {endpoint} failed ({_line(error)}); try again"
        ) from None
    if kind is not NotFoundError and _known_absent(source, cache):
        kind, why = NotFoundError, f"no such file when {endpoint} last answered, as {cache} knows"
    raise kind(f"{source} ({why})")


def _known_absent(source: HubFile, cache: str) -> bool:
    """Whether the hub said, of the revision in the cache, that it has no such file.

    Without it a model that has fewer files than others, and loaded once, would need the hub again.
    """
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(
        source.repo, source.file, cache_dir=cache, revision=source.revision
    )
    return found is huggingface_hub._CACHED_NO_EXIST


ANSWERS = {
    401: "refuses the token: set HF_TOKEN to a valid one, or unset it",
    403: "does not let you in: accept the model's conditions on its page, and set HF_TOKEN to a"
    " token of that account",
    404: "does not say what it lacks: is it a hub of models, and the name right?",
    429: "has had too many requests from here: wait some minutes, or set HF_TOKEN",
}


def _status(error: BaseException | None) -> str:
    """What the hub answered, and what would help; "" if it did not answer."""
    from huggingface_hub import errors as hub_errors

    if not isinstance(error, hub_errors.HfHubHTTPError) or error.response is None:
        return ""
    code = error.response.status_code
    if isinstance(error, hub_errors.GatedRepoError):
        code = 403
    does = ANSWERS.get(code) or ("has a fault: try again later" if code >= 500 else "refuses")
    return f"answered {error.response.status_code} and {does}"


INDEX = "model.safetensors.index.json"


def download_model(source: HubFile) -> Path:
    """As :func:`download`; a model that is published in parts is downloaded whole.

    Returns:
      The local file, or the local index of the parts, which lie beside it.
    """
    try:
        return download(source)
    except (NotFoundError, OfflineError) as error:
        if source.file != "model.safetensors":
            raise
        try:
            index = download(replace(source, file=INDEX))
        except HubError:
            raise error from None
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index}: not an index of weights ({_line(error)})") from None
    for file in sorted(parts):
        if not str(file).endswith(".safetensors") or Path(file).name != file:
            raise WeightsError(f"{source}: its index names {file!r}, no .safetensors beside it")
        download(replace(source, file=file))
    return index


def download_config(source: HubFile, name: str = "config.json") -> Path | None:
    """The config.json in the folder of the weights; None if the hub says that there is none.

    Raises UnavailableError where it could not be asked: without the config nobody knows the model.
    """
    folder = source.file.rpartition("/")[0]
    try:
        return download(replace(source, file=f"{folder}/{name}" if folder else name))
    except NotFoundError:
        return None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
