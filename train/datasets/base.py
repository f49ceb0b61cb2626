"""What every data set's config has, and what is done to every set once it is open."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any, ClassVar

from ...layers.install import how_to_install
from ...zoo.ranges import Checked, Count, Size
from ..data.base import DataError, Source
from ..data.stored import Mirrored
from ..settings import Kinds
from ..stems import featured
from .table import DATA_SETS, data_set

# What one config for all data sets took; a set that has no such field does not read it.
ONCE_COMMON = frozenset(
    (
        "path", "csv", "labels", "timestamps", "origin", "frame_rate", "split", "videos",
        "sequences", "sets", "background", "detector",
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DataConfig(Checked, Kinds):
    """Which videos, and how they are read.

    A data set subclasses this with fields of its own, says its ``kind`` and opens itself
    (:meth:`open`). ``--set data.kind=WORD`` chooses another one of ``table.DATA_SETS``; what both
    have is kept.

    Attributes:
      size: (height, width) of the frames in pixels.
      max_boxes: K.
      mirror: also every video mirrored (classes that a mirror exchanges are exchanged).
      held_out: part of the videos that is not learned from but measured on, by the teacher's
        answers; 0 where labels measure.
      whole_frame: slot 0 of every frame is the whole frame.
      labelled: somebody said what is seen, so that it can be learned from and measured with.
      resizes: frames come in ``size``; False: in that of the set's own files.
      exchanged: pairs of classes that a mirror exchanges.
      files: fields that name a file or folder of this machine, which must be there.
      where: where to get the files.
    """

    size: Size = (128, 128)
    max_boxes: Count = 2
    mirror: bool = False

    held_out: ClassVar[float] = 0.0
    whole_frame: ClassVar[bool] = False
    labelled: ClassVar[bool] = True
    resizes: ClassVar[bool] = True
    exchanged: ClassVar[tuple[tuple[str, str], ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    where: ClassVar[str] = ""

    def open(self, cache: str) -> Source:
        """The videos; ``cache`` is the folder for what is kept. Raises DataError: no such data."""
        raise NotImplementedError

    def check(self, setting: str) -> None:
        """Refuses what can be refused before the set is opened; ``setting`` is the group's name.
        Raises DataError."""
        for field in self.files:
            exists(f"{setting}.{field}", getattr(self, field), self.where)

    def features(self, cache: str, stem: str = "", card: Any = None) -> Source:
        """The videos, mirrored too where that is wanted, as features of a pretrained ``stem``.
        Raises as :meth:`open`."""
        source = self.open(cache)
        if self.mirror:
            at = {name: number for number, name in enumerate(source.classes)}
            swap = tuple((at[a], at[b]) for a, b in self.exchanged if a in at and b in at)
            source = Mirrored(source, swap)
        return featured(source, stem, card, cache)

    def as_kind(self, kind: str) -> DataConfig:
        """The config of another data set with what both have. Raises DataError: no such set."""
        chosen = data_set(kind)
        both = {f.name for f in dataclasses.fields(chosen)} & {
            f.name for f in dataclasses.fields(self)
        }
        return chosen(**{name: getattr(self, name) for name in both})

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The words that ``kind`` may be."""
        return tuple(DATA_SETS)

    @classmethod
    def left_out(cls, field: str) -> bool:
        """True for a word that this set does not read and a common config once took."""
        return field in ONCE_COMMON and field not in {f.name for f in dataclasses.fields(cls)}


def located(path: str) -> Path:
    """A file or folder: where the path says, else by its name in ``$STREAMZOO_DATA``."""
    given, shelf = Path(path).expanduser(), os.environ.get("STREAMZOO_DATA")
    if path and shelf and not given.exists():
        for part in (given, Path(given.name)):
            if (found := Path(shelf).expanduser() / part).exists():
                return found
    return given


def exists(setting: str, path: str, where: str = "") -> None:
    """Raises DataError where nothing is at the path, nor in ``$STREAMZOO_DATA``."""
    source = f"; get it from {where}" if where else ""
    if not path:
        raise DataError(f"{setting} is not set: give it with --set {setting}=PATH{source}")
    if not located(path).exists():
        raise DataError(
            f"{setting}: {path}: no such file or folder; set {setting}=PATH, or put it into "
            f"$STREAMZOO_DATA{source}"
        )


def installed(module: str, what: str, extra: str) -> None:
    """Raises DataError where an optional package is missing."""
    if importlib.util.find_spec(module) is None:
        raise DataError(f"{what} needs: {how_to_install(extra)}")
