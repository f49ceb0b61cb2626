"""Checkpoints: written by orbax while the next steps run, whole or not at all, never pickled.

Besides the state of the loop a checkpoint holds the position in the data of every process, and the
settings of the run.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from .optim import path_of

_AVERAGE = "average"  # kept apart, so that an evaluation reads nothing else


class CheckpointError(ValueError):
    """A checkpoint that is not there, or is of another run."""


class Found(NamedTuple):
    """A checkpoint on disk."""

    step: int
    settings: dict[str, Any]  # of the run that wrote it


class Checkpoints:
    """The checkpoints in a folder, one per step; the last ``keep`` of them stay."""

    def __init__(self, folder: str | Path, keep: int = 2, fresh: bool = False):
        self.folder = Path(folder).resolve()
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every file at INFO
        if fresh:
            if jax.process_index() == 0:
                shutil.rmtree(self.folder, ignore_errors=True)
            _meet("fresh")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max(1, keep), cleanup_tmp_directories=True
        )
        # named, so that the shapes of a checkpoint can be asked for before it is read
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            _AVERAGE: ocp.StandardCheckpointHandler(),
            "about": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    @staticmethod
    def find(folder: str | Path) -> Found | None:
        """The newest checkpoint in a folder, or None; writes nothing."""
        # no manager: that would wait for the other processes
        folder = Path(folder)
        steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
        if not steps:
            return None
        about = (folder / str(max(steps)) / "about" / "metadata").read_text(encoding="utf-8")
        return Found(max(steps), json.loads(about)["settings"])

    @property
    def last(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def path(self, step: int | None = None) -> Path:
        """Folder of a checkpoint, by default of the newest."""
        return self.folder / str(self.last if step is None else step)

    def save(self, step: int, state: Any, data: Any, settings: str, wait: bool = False) -> None:
        """Writes ``state`` (with a field ``average``) in the background.

        data: this process's position, JSON. settings: JSON text. ``state`` may be donated to the
        next step as soon as this returns.
        """
        if step in self._manager.all_steps():
            return
        flat = _flat(state)
        average = {k: v for k, v in flat.items() if _is_average(k)}
        rest = {k: v for k, v in flat.items() if not _is_average(k)}
        about = {"settings": json.loads(settings), "data": _exchange(data)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(rest),
                average=ocp.args.StandardSave(average),
                about=ocp.args.JsonSave(about),
            ),
        )
        if wait:
            self.wait()

    def about(self) -> dict[str, Any]:
        """Of the newest checkpoint: "settings" and "data", the position of each process."""
        self._need()
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._manager.restore(self.last, args=args)["about"]

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
        found = self._manager.restore(self.last, args=ocp.args.Composite(**parts))
        flat = {**found["state"], **found["average"]}
        return _unflat(flat, like)

    def restore_average(self, like: Any) -> Any:
        """Only the averaged weights; ``like`` is the pytree of the weights."""
        self._need()
        flat = {f"{_AVERAGE}/{name}": leaf for name, leaf in _flat(like).items()}
        self._compare(flat, ("average",))
        args = ocp.args.StandardRestore({k: _struct(v) for k, v in flat.items()})
        found = self._manager.restore(self.last, args=ocp.args.Composite(average=args))["average"]
        return _unflat({k.removeprefix(f"{_AVERAGE}/"): v for k, v in found.items()}, like)

    def wait(self) -> None:
        """Until all checkpoints are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()  # also after an error: a write under way would be cut off

    def _need(self) -> int:
        self.wait()
        step = self.last
        if step is None:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        return step

    def _compare(self, wanted: dict[str, Any], items: tuple[str, ...]) -> None:
        stored: dict[str, Any] = {}
        metadata = self._manager.item_metadata(self._need())
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


def _is_average(name: str) -> bool:
    return name.startswith(f"{_AVERAGE}/")


def _flat(tree: Any) -> dict[str, Any]:
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _unflat(flat: dict[str, Any], like: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: flat[path_of(path)], like)


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
