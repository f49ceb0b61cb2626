"""Checkpoints as other projects publish them: which files make a model, what they tell of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ..layers.streaming import Json
from . import hub
from .errors import WeightsError

PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
_PART = re.compile(r".+-\d+-of-(?P<count>\d+)\.safetensors")


def weights_in(folder: Path) -> Path:
    """The weights of a folder: ``model.safetensors``, the index of a model in parts, or the only
    safetensors file. Raises WeightsError saying what is missing."""
    if (folder / hub.INDEX).is_file():
        return whole(folder / hub.INDEX)
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return whole(files[0])
    if files:
        return _one_of_parts(files[0], f"{folder}: ")
    others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
    raise WeightsError(
        f"{folder}: no safetensors file in this folder"
        + (f"; {others[0]} is a pickle, which is never read" if others else "")
    )


def whole(path: Path) -> Path:
    """A weights file itself; of a part of a model, and of the index of its parts, the index.

    Raises WeightsError where parts are missing, naming them.
    """
    if path.name.endswith(".index.json"):
        missing = [file for file in parts_of(path) if not (path.parent / file).is_file()]
        if missing:
            raise WeightsError(
                f"{path}: {len(missing)} of {len(parts_of(path))} parts missing: "
                f"{', '.join(missing[:4])}; download them into the same folder"
            )
        return path
    return _one_of_parts(path) if _PART.fullmatch(path.name) else path


def _one_of_parts(path: Path, where: str = "") -> Path:
    if (path.parent / hub.INDEX).is_file():
        return whole(path.parent / hub.INDEX)
    match = _PART.fullmatch(path.name)
    if match is None:
        files = sorted(p.name for p in path.parent.glob("*.safetensors"))
        raise WeightsError(
            f"{where}{len(files)} safetensors files and no {hub.INDEX}; name the file"
            f" ({', '.join(files[:4])})"
        )
    raise WeightsError(
        f"{path}: one of {int(match['count'])} parts of a model, and {hub.INDEX} is not beside it; "
        "download that file, and all parts, into the same folder"
    )


def parts_of(index: Path) -> list[str]:
    """File names of the parts that an index lists. Raises WeightsError for no such index."""
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        bad = [file for file in parts if not isinstance(file, str) or Path(file).name != file]
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise WeightsError(f"{index}: not an index of weights ({why})") from None
    if bad or not parts or not all(file.endswith(".safetensors") for file in parts):
        raise WeightsError(f"{index}: its index names {bad or sorted(parts)!r}, no .safetensors")
    return sorted(parts)


FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # Pillow's numbers


def facts(path: Path, source: hub.HubFile | None, config: Any) -> Json:
    """What the files beside published weights say of the card: mean, std, how pictures are made,
    and classes.

    config: of the model they become
    Raises WeightsError for files that are not JSON, and where the hub could not be asked for them.
    """
    shown: Json = {}
    name = ""
    for name in PREPROCESSORS:
        if source is not None:
            hub.download_config(source, name)
        # what is null is left to the processor's class, as if it were not there
        if shown := {k: v for k, v in _json(path.parent / name).items() if v is not None}:
            break
    try:
        found = {**_look(shown), **_normalised(shown)}
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path.parent / name}: it does not say how a picture is made ({error}); fetch the file"
            " of the same repository again"
        ) from None
    labels = _json(path.parent / "config.json").get("id2label")
    labels = labels if isinstance(labels, dict) else {}
    count = getattr(config, "num_classes", 0)
    if count and len(labels) == count and all(str(i) in labels for i in range(count)):
        found["classes"] = tuple(str(labels[str(i)]) for i in range(count))
    return found


def _normalised(shown: Json) -> Json:
    """The card's mean and std of pixels in 0..1, where the file states them.

    A processor multiplies pixels of 0..255 by a factor first; one that is not 1/255 is in ours.
    Raises TypeError, ValueError.
    """
    if not shown:
        return {}
    scaled = bool(shown.get("do_rescale", True))
    factor = 255 * float(shown.get("rescale_factor", 1 / 255)) if scaled else 255.0
    factor = 1.0 if abs(factor - 1) < 1e-3 else factor
    found: Json = {}
    for ours, theirs, plain in (("mean", "image_mean", 0.0), ("std", "image_std", 1.0)):
        told = shown.get(theirs) if shown.get("do_normalize", True) else [plain] * 3
        if isinstance(told, list) and len(told) == 3:
            found[ours] = tuple(float(v) / factor for v in told) if factor > 0 else (0.0,) * 3
    numbers = (*found.get("mean", ()), *found.get("std", ()))
    if not all(map(math.isfinite, numbers)) or min(found.get("std", (1.0,))) <= 0:
        raise ValueError(f"mean {shown.get('image_mean')}, std {shown.get('image_std')}")
    return found


def _look(shown: Json) -> Json:
    """The card's input_size, fit, short_side and filter, of a preprocessor_config.json. Raises
    TypeError, ValueError.

    {} for one that says nothing, or what we have no word for: then the family's card counts.
    """
    size, crop = shown.get("size"), shown.get("crop_size")
    cut = bool(shown.get("do_center_crop")) and crop is not None
    if isinstance(size, int):  # written so by older versions
        size = {"shortest_edge": size} if cut else {"height": size, "width": size}
    name = FILTERS.get(shown.get("resample", -1))
    if not isinstance(size, dict) or not shown.get("do_resize", True) or name is None:
        return {}
    if cut and "shortest_edge" in size:
        box = _box(crop)
        short = _side(size["shortest_edge"])
        return box and {"input_size": box, "fit": "crop", "short_side": short, "filter": name}
    if "longest_edge" in size and shown.get("do_pad"):
        box = _box(shown.get("pad_size") or size["longest_edge"])
        return box and {"input_size": box, "fit": "pad", "short_side": 0, "filter": name}
    if not cut and (box := _box(size)):
        return {"input_size": box, "fit": "stretch", "short_side": 0, "filter": name}
    return {}


def _box(size: Any) -> Any:
    """(height, width) of a number or an object, {} for another."""
    if isinstance(size, int):
        return _side(size), _side(size)
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return _side(size["height"]), _side(size["width"])
    return {}


def _side(value: Any) -> int:
    if int(value) < 1:
        raise ValueError(f"a side of {value} pixels")
    return int(value)


def _json(path: Path) -> Json:
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> Json:
    """A JSON object. Raises WeightsError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return value
