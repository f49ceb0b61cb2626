"""Quantised kernels in a file: the arrays of each under its name, how to read them in the header.

``a/kernel.codes``, ``a/kernel.scale``, ... are the parts of ``a/kernel``; the header's
``quantised`` is JSON, {"a/kernel": {"scheme": "w4a16-g64", "shape": [384, 1536]}}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..layers.codec.box import ORDER, SCHEMES, Quantised, expected_shapes
from ..layers.streaming import Params
from .errors import WeightsError

HEADER = "quantised"


def scheme_of(name: str, where: str = "") -> Any:
    """The scheme of a name. Raises WeightsError naming those that there are."""
    if name not in SCHEMES:
        known = ", ".join(SCHEMES)
        if where:
            raise WeightsError(
                f"{where}: weights of the scheme {name!r}, which this streamzoo does not read (it"
                f" reads {known}); upgrade it, or compress the model again"
            )
        raise WeightsError(f"scheme {name!r} is not one of {known}")
    return SCHEMES[name]


def pack(flat: Params) -> tuple[dict[str, Any], dict[str, str]]:
    """(flat arrays, entries of the header) of weights, some of them quantised."""
    arrays: dict[str, Any] = {}
    told = {}
    for name, leaf in flat.items():
        if not isinstance(leaf, Quantised):
            arrays[name] = leaf
            continue
        arrays |= {f"{name}.{part}": np.asarray(value) for part, value in leaf.parts.items()}
        told[name] = {"scheme": leaf.scheme.name, "shape": list(leaf.inner)}
        if leaf.turned:
            told[name]["turned"] = True
    return arrays, {HEADER: json.dumps(told)} if told else {}


def unpack(flat: Params, metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """The inverse of :func:`pack`. Raises WeightsError for a scheme that is not known here, and for
    parts that are missing or of another shape."""
    found = dict(flat)
    for name, told in _told(metadata, where).items():
        scheme = scheme_of(told.get("scheme"), where)
        parts = {part: found.pop(f"{name}.{part}") for part in ORDER if f"{name}.{part}" in found}
        inner = tuple(told.get("shape", ()))
        if not {"codes", "scale"} <= parts.keys() or len(inner) < 2:
            raise WeightsError(f"{where}: {name!r} lacks its codes, scale or shape; compress again")
        wanted = expected_shapes(scheme, inner, parts["codes"].shape[:-2])
        for part, shape in wanted.items():
            if part in parts and parts[part].shape != shape:
                raise WeightsError(
                    f"{where}: {name}.{part} is {list(parts[part].shape)} instead of {list(shape)}"
                )
        found[name] = Quantised(parts, scheme, inner, bool(told.get("turned", False)))
    return found


def _told(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    try:
        told = json.loads(metadata.get(HEADER, "{}"))
        assert isinstance(told, dict) and all(isinstance(one, dict) for one in told.values())
    except (ValueError, AssertionError):
        raise WeightsError(f"{where}: its header's {HEADER!r} is not what we write") from None
    return told


def needs_running(metadata: Mapping[str, str]) -> bool:
    """True where the header says that layers treat their inputs (``codec.running``)."""
    told = _told(metadata, "header").values()
    online = {name for name, scheme in SCHEMES.items() if scheme.activations}
    return any(one.get("scheme") in online or one.get("turned") for one in told)
