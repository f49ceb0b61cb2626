"""Downloads from the Hugging Face Hub, into the hub client's own cache.

``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_HUB_CACHE`` are read at every call (the
client itself reads them once, at import).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

_SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<rev>[^:@\s]+))?(?::(?P<file>[^:\s]+))?")


class WeightsError(ValueError):
    """Weights that cannot be found, read or fitted to a model."""


class NotFoundError(WeightsError):
    """The hub, or its cache when offline, has no such file."""


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


def download(source: HubFile) -> Path:
    """The local path of a file, downloaded unless the cache has it.

    Raises NotFoundError if there is no such file, repository or connection, saying which
    endpoint or cache was asked; WeightsError for a download that broke off.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as hub_errors

    offline = _true("HF_HUB_OFFLINE") or constants.HF_HUB_OFFLINE
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    cache = os.environ.get("HF_HUB_CACHE")
    if cache is None and "HF_HOME" in os.environ:
        cache = str(Path(os.environ["HF_HOME"]) / "hub")
    cache = str(Path(cache or constants.HF_HUB_CACHE).expanduser())
    try:
        return Path(
            hf_hub_download(
                source.repo,
                source.file,
                revision=source.revision,
                cache_dir=cache,
                endpoint=endpoint,
                local_files_only=offline,
                library_name="streamzoo",
            )
        )
    except hub_errors.LocalEntryNotFoundError:
        if offline:
            why = f"offline, HF_HUB_OFFLINE is set, and not in the cache {cache}"
        else:
            why = f"{endpoint} cannot be reached, and not in the cache {cache}"
    except hub_errors.RevisionNotFoundError:
        why = f"{endpoint} has no such revision"
    except hub_errors.EntryNotFoundError:
        why = f"{endpoint} has no such file"
    except hub_errors.RepositoryNotFoundError:
        why = f"{endpoint} has no such repository, or it needs a token (HF_TOKEN)"
    except hub_errors.HFValidationError as error:
        raise WeightsError(f"{source}: {_line(error)}") from None
    except Exception as error:
        # the client lets its HTTP library's own exceptions through, whichever that is
        raise WeightsError(
            f"{source}: the download from {endpoint} failed ({_line(error)}); try again"
        ) from None
    raise NotFoundError(f"{source} ({why})")


INDEX = "model.safetensors.index.json"


def download_model(source: HubFile) -> Path:
    """As :func:`download`; a model that is published in parts is downloaded whole.

    Returns:
      The local file, or the local index of the parts, which lie beside it.
    """
    try:
        return download(source)
    except NotFoundError as error:
        if source.file != "model.safetensors":
            raise
        try:
            index = download(replace(source, file=INDEX))
        except NotFoundError:
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


def download_config(source: HubFile) -> Path | None:
    """The config.json in the folder of the weights; None if there is none."""
    folder = source.file.rpartition("/")[0]
    try:
        return download(replace(source, file=f"{folder}/config.json" if folder else "config.json"))
    except NotFoundError:
        return None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
