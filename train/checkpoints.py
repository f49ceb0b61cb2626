"""Checkpoints: written by orbax while the next steps run, whole or not at all, never pickled.

Besides the state of the loop a checkpoint holds the position in the data of every process, and the
settings of the run.

Every finished checkpoint gets ``checksums.json``, the size and sha256 of its files. One whose files
are not those (a disk that failed, a power cut) is never read: the newest whole one is, and the
damaged one is set aside as ``damaged-<step>``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ..layers.streaming import Carry, Json, Params
from .failures import one_line
from .optim import path_of

SUMS = "checksums.json"
_AVERAGE = "average"  # kept apart, so that an evaluation reads nothing else


class CheckpointError(ValueError):
    """A checkpoint that is not there, is of another run, or cannot be read or written."""


class WriteError(CheckpointError):
    """A checkpoint could not be written; what was written before it is there."""


class Found(NamedTuple):
    """A checkpoint on disk."""

    step: int
    settings: Json  # of the run that wrote it
    damaged: dict[int, str] = {}  # newer ones: step -> what is wrong with it


class Checkpoints:
    """The checkpoints in a folder, one per step; the last ``keep`` of them stay."""

    def __init__(self, folder: str | Path, keep: int = 2, fresh: bool = False):
        self.folder = Path(folder).resolve()
        self.notes: list[str] = []  # lines for whoever watches
        # orbax tells every file at INFO, and an error that is raised as well with its stack trace
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        _quiet()
        if jax.process_index() == 0:
            if fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._set_aside()
        _meet("folder of checkpoints")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max(1, keep),
            cleanup_tmp_directories=True,
        )
        self._pending: int | None = None  # a step that is being written
        self._sealing = threading.Lock()
        # named, so that the shapes of a checkpoint can be asked for before it is read
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            _AVERAGE: ocp.StandardCheckpointHandler(),
            "about": ocp.JsonCheckpointHandler(),
        }
        with told(f"{self.folder}: cannot be used", WriteError):
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=handlers
            )

    def _set_aside(self) -> None:
        found = self.find(self.folder)
        for step, why in (found.damaged if found else {}).items():
            aside = self.folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.folder / str(step), aside)
            assert found is not None
            self.notes.append(
                f"the checkpoint of step {step} is damaged ({why}) and is set aside as {aside}; "
                f"going on from step {found.step}"
            )

    def _seal(self, step: int) -> None:
        # a step's folder is there, by its name, once all of it is on disk
        with self._sealing:
            if jax.process_index() == 0 and (self.folder / str(step)).is_dir():
                seal(self.folder / str(step))

    def _seal_when_finished(self, step: int) -> None:
        # as soon as may be: a power cut before that costs the checkpoint
        while self._pending == step and not (self.folder / str(step)).is_dir():
            time.sleep(0.05)
        with contextlib.suppress(OSError):  # told by `wait`
            self._seal(step)

    @staticmethod
    def find(folder: str | Path) -> Found | None:
        """The newest whole checkpoint in a folder, or None; writes nothing.

        Raises CheckpointError: there are checkpoints, and all of them are damaged.
        """
        # no manager: that would wait for the other processes
        folder = Path(folder)
        steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
        # a run of before there were checksums has none at all
        sealed = any((folder / str(step) / SUMS).exists() for step in steps)
        damaged: dict[int, str] = {}
        for step in sorted(steps, reverse=True):
            if why := damage(folder / str(step), sealed):
                damaged[step] = why
                continue
            about = (folder / str(step) / "about" / "metadata").read_text(encoding="utf-8")
            return Found(step, json.loads(about)["settings"], damaged)
        if damaged:
            each = "; ".join(f"{step}: {why}" for step, why in damaged.items())
            raise CheckpointError(
                f"{folder}: no checkpoint is whole ({each}); put one back from a copy, or start "
                "afresh with --fresh"
            )
        return None

    @property
    def last(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def path(self, step: int | None = None) -> Path:
        """Folder of a checkpoint, by default of the newest."""
        return self.folder / str(self.last if step is None else step)

    def save(self, step: int, state: Carry, data: Any, settings: str, wait: bool = False) -> None:
        """Writes ``state`` (with a field ``average``) in the background.

        data: this process's position, JSON. settings: JSON text. ``state`` may be donated to the
        next step as soon as this returns.
        """
        if step in self._manager.all_steps():
            return
        self.wait()  # orbax would; and no checkpoint is deleted before the next has checksums
        flat = _flat(state)
        average = {k: v for k, v in flat.items() if _is_average(k)}
        rest = {k: v for k, v in flat.items() if not _is_average(k)}
        about = {"settings": json.loads(settings), "data": _exchange(data)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(rest),
            average=ocp.args.StandardSave(average),
            about=ocp.args.JsonSave(about),
        )
        with self._writing(step):
            self._manager.save(step, args=args)
        self._pending = step
        threading.Thread(target=self._seal_when_finished, args=(step,), daemon=True).start()
        if wait:
            self.wait()

    def about(self) -> Json:
        """Of the newest checkpoint: "settings" and "data", the position of each process."""
        self._need()
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._read(args)["about"]

    def restore(self, like: Any) -> Any:
        """The newest state, with the shapes, types and shardings of ``like`` (arrays or structs).

        Raises CheckpointError if there is none or it is of another model.
        """
        self._need()
        flat = _flat(like)
        self._compare(flat, ("state", "average"))
        parts = {
            name: ocp.args.StandardRestore(
                {k: _struct(v) for k, v in flat.items() if _is_average(k) == (name == _AVERAGE)}
            )
            for name in ("state", "average")
        }
        found = self._read(ocp.args.Composite(**parts))
        flat = {**found["state"], **found["average"]}
        return _unflat(flat, like)

    def restore_average(self, like: Any) -> Any:
        """Only the averaged weights; ``like`` is the pytree of the weights."""
        self._need()
        flat = {f"{_AVERAGE}/{name}": leaf for name, leaf in _flat(like).items()}
        self._compare(flat, ("average",))
        args = ocp.args.StandardRestore({k: _struct(v) for k, v in flat.items()})
        found = self._read(ocp.args.Composite(average=args))["average"]
        return _unflat({k.removeprefix(f"{_AVERAGE}/"): v for k, v in found.items()}, like)

    def wait(self) -> None:
        """Until all checkpoints are on disk. Raises WriteError: one is not."""
        step, self._pending = self._pending, None
        with self._writing(step):
            self._manager.wait_until_finished()
            if step is not None:
                self._seal(step)

    def close(self) -> None:
        """Waits and lets go of the folder. Raises WriteError: a checkpoint is not on disk."""
        self.wait()
        with self._writing(None):
            self._manager.close()

    def _read(self, args: Any) -> Any:
        with told(f"{self.path()}: cannot be read", CheckpointError):
            return self._manager.restore(self.last, args=args)

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        with told(f"{self.folder}: {what} could not be written", WriteError):
            yield

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        # also after an error: a write under way would be cut off
        with contextlib.suppress(*[WriteError] if kind else []):
            self.close()

    def _need(self) -> int:
        self.wait()
        step = self.last
        if step is None:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        return step

    def _compare(self, wanted: Params, items: tuple[str, ...]) -> None:
        stored: dict[str, Any] = {}
        step = self._need()
        with told(f"{self.path(step)}: cannot be read", CheckpointError):
            metadata = self._manager.item_metadata(step)
        for item in items:
            found = metadata[item]
            stored |= dict(getattr(found, "tree", found))
        problems = []
        for name in sorted(wanted.keys() | stored.keys()):
            if name not in stored:
                problems.append(f"{name} is missing")
            elif name not in wanted:
                problems.append(f"{name} is unknown to this model")
            elif tuple(stored[name].shape) != tuple(wanted[name].shape):
                shapes = tuple(stored[name].shape), tuple(wanted[name].shape)
                problems.append(f"{name} is {shapes[0]}, not {shapes[1]}")
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise CheckpointError(
                f"{self.path()} is of another model or optimiser: {'; '.join(problems[:3])}{more}; "
                "choose another loop.out, or start afresh with --fresh"
            )


@contextlib.contextmanager
def told(what: str, kind: type[CheckpointError]) -> Iterator[None]:
    """Whatever a library raises inside becomes ``kind``, one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise kind(f"{what} ({one_line(error)})") from error


def _quiet() -> None:
    # orbax gives up at the first failure; tensorstore then tells each of the others, one stack
    # trace after another, to an event loop that is gone
    before = sys.unraisablehook

    def hook(seen: Any) -> None:
        if "Event loop is closed" not in str(seen.exc_value):
            before(seen)

    if getattr(before, "__module__", "") != __name__:
        sys.unraisablehook = hook


def sums(folder: Path) -> dict[str, tuple[int, str]]:
    """Relative path -> (size in bytes, sha256) of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(SUMS):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = path.stat().st_size, digest
    return found


def seal(folder: Path) -> None:
    """Writes the checksums of a finished checkpoint, whole or not at all, if it has none."""
    target = folder / SUMS
    if target.exists():
        return
    part = folder / f"{SUMS}.{uuid.uuid4().hex}"
    with part.open("w", encoding="utf-8") as file:
        json.dump(sums(folder), file, indent=0)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)


def damage(folder: Path, sealed: bool = True) -> str:
    """What is wrong with a checkpoint, "" for a whole one.

    sealed: it should have checksums; else only what orbax reads first is looked at.
    """
    try:
        json.loads((folder / "about" / "metadata").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return "about/metadata cannot be read"
    try:
        found = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        wanted = {name: (int(size), str(digest)) for name, (size, digest) in found.items()}
    except FileNotFoundError:
        empty = [p for p in folder.rglob("manifest.ocdbt") if not p.stat().st_size]
        if sealed or empty:
            return "it was not finished" if sealed else f"{empty[0].relative_to(folder)} is empty"
        return ""
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{SUMS} cannot be read"
    for name, (size, digest) in wanted.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (now := path.stat().st_size) != size:
            return f"{name} has {now} bytes of {size}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name} has other contents than were written"
    return ""


def _is_average(name: str) -> bool:
    return name.startswith(f"{_AVERAGE}/")


def _flat(tree: Any) -> dict[str, Any]:
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _unflat(flat: Params, like: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[path_of(path)], like)


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _exchange(data: Any) -> list[Any]:
    # every process's JSON, in order: the one file is written by process 0
    if jax.process_count() == 1:
        return [data]
    text = np.frombuffer(json.dumps(data).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, sizes, strict=True)]
