"""What every view does: a task's results as JSON lines, over the wire, as rows and as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import jax
import numpy as np

from ...layers.streaming import Json

if TYPE_CHECKING:
    from ..regions import Regions
    from ..sources.base import Frame

Output = TypeVar("Output")
Seen = TypeVar("Seen", covariant=True)
MOST = 4096  # numbers of one output that are sent; masks and feature maps are not
Line = Json


class Answered(Protocol[Seen]):
    """A result, as views read it: of a session, or of an engine's stream."""

    @property
    def index(self) -> int: ...

    @property
    def time(self) -> float: ...

    @property
    def milliseconds(self) -> float: ...

    @property
    def output(self) -> Seen: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def multi_label(self) -> bool: ...


class View(Generic[Output]):
    """How the results of a task are read, written, sent and drawn; this one for outputs of which
    nothing is known. One for each stream, as some remember what was.

    A task's own view changes what it has: ``fields`` and ``draw`` for JSON lines and pictures,
    ``sent`` for what goes over the wire, ``picture`` for what only the server can draw.

    Args:
      size: (height, width) of the source's pictures, if known.
      regions: zones and lines that are counted; only for a view with ``ids``.
    """

    ids = False  # objects keep an id from frame to frame, which zones and lines need
    alarms: tuple[str, ...] = ()  # scores of a frame that are told where they are high

    def __init__(self, size: tuple[int, int] | None = None, regions: Regions | None = None):
        self.size, self.regions = size, regions

    # Reading

    def scores(self, result: Answered[Output]) -> np.ndarray | None:
        """Probabilities of the frame's classes, float32 [C]; None where there are none."""
        return None

    def objects(self, result: Answered[Output]) -> list[Line]:
        """Objects: ``label``, ``score``, ``box`` x1, y1, x2, y2 in [0, 1]."""
        return []

    def persons(self, result: Answered[Output]) -> list[Line]:
        """Persons: ``score``, ``box`` x1, y1, x2, y2 in [0, 1]."""
        return []

    # Writing

    def fields(self, result: Answered[Output]) -> Line:
        """What a JSON line says of the frame beside its number and times."""
        return {}

    def record(self, frame: Frame, result: Answered[Output], latency_ms: float) -> Line:
        """The JSON line of a frame."""
        return {
            "frame": frame.index,
            "time": round(frame.time, 4),
            "model_ms": round(result.milliseconds, 2),
            "latency_ms": round(latency_ms, 2),
        } | self.fields(result)

    def rows(self, result: Answered[Output]) -> list[Line]:
        """A table of what was found, a row each: ``index``, ``time``, ``what`` ("frame", "person",
        "object"), ``label``, ``score`` and, where there is one, the box ``x1``, ``y1``, ``x2``,
        ``y2`` in [0, 1]."""
        return list(self.rows_of(result.index, result.time, self.fields(result)))

    def rows_of(self, index: int, time: float, fields: Line) -> Iterator[Line]:
        """The rows of a frame's ``fields``."""
        head = {"index": index, "time": time}
        for label, score in fields.get("classes", {}).items():
            yield head | {"what": "frame", "label": label, "score": score}
        for name in self.alarms:
            if name in fields:
                yield head | {"what": "frame", "label": name, "score": fields[name]}
        # of objects that have a label the persons are among them
        what = "object" if "objects" in fields else "person"
        for one in fields.get("objects", fields.get("persons", [])):
            one = {"label": "person"} | one
            corners = one.pop("box") or [None] * 4
            one |= dict(zip(("x1", "y1", "x2", "y2"), corners, strict=False))
            ranked = one.pop("classes", {one["label"]: one.get("score")})
            for label, score in ranked.items():
                yield head | {"what": what} | one | {"label": label, "score": score}

    def finish(self) -> list[Line]:
        """Events that end with the stream."""
        return []

    # Sending

    def sent(self, result: Answered[Output]) -> Line:
        """What goes over the wire: here ``output``, the arrays of at most 4096 numbers."""
        output = dict(arrays(result.output))
        return {"output": output} if output else {}

    def told(self, record: Line) -> Line:
        """The ``fields`` of a result that was ``sent``, as far as it holds them."""
        known = {name: record[name] for name in ("classes", "persons") if record.get(name)}
        return {"persons": []} | known | (record.get("output") or {})

    def tile(self, record: Line) -> Line:
        """What a page draws on a tile of a record that was ``sent``."""
        output = record.get("output") or {}
        scores = {k: output[k] for k in self.alarms if isinstance(output.get(k), float)}
        return {"scores": scores, "objects": output.get("objects", [])}

    # Drawing

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the drawn pictures for a source of ``size``."""
        return size

    def paint(
        self, image: np.ndarray, time: float, result: Any, line: Line, caption: str
    ) -> np.ndarray:
        """The picture of a video, uint8 [h, w, 3] of ``canvas``; ``time`` in seconds."""
        del time, caption
        return self.draw(image, result, line)

    def draw(self, image: np.ndarray, result: Any, line: Line) -> np.ndarray:
        """The picture, uint8 [h, w, 3], with what was found. ``line`` has :meth:`fields`;
        ``result`` is None where a client knows no more than that."""
        return image if result is None else self.picture(image, result)

    def picture(self, image: np.ndarray, result: Any) -> np.ndarray:
        """The picture with what is itself a picture, such as a map of depths. A page draws boxes
        and labels; this is drawn for it."""
        return image


def arrays(output: Any, known: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, nested list) of the small numeric leaves of an output, but for the ``known`` ones."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(output)[0]:
        name = "/".join(str(getattr(k, "name", getattr(k, "key", k))) for k in path) or "value"
        array = np.asarray(leaf)
        if name in known or array.size > MOST or array.dtype.kind not in "fiubV":
            continue
        if array.dtype.kind == "V" or (array.dtype.kind == "f" and array.dtype.itemsize < 4):
            array = array.astype(np.float32)  # bfloat16 and the like
        yield name, array.tolist()
