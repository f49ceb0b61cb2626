"""Carries and outputs that ``jax.export`` can write: what a server without our classes needs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

from jax import export

Kind = TypeVar("Kind", bound=type)


def exportable(kind: Kind) -> Kind:
    """Registers a named tuple or a ``flax.struct`` dataclass for ``Exported.serialize``, as
    ``streamzoo.<its file>.<its name>``. Goes above the class.

    Whoever calls ``jax.export.deserialize`` imports streamzoo first, so that the types are known.
    """
    file = kind.__module__.rsplit(".", 1)[-1]
    name = f"streamzoo.{file}.{kind.__name__}"
    if issubclass(kind, tuple):
        return export.register_namedtuple_serialization(kind, serialized_name=name)

    described: Any = kind
    mine = [field.name for field in dataclasses.fields(described)]

    def write(static: Any) -> bytes:
        return json.dumps([mine, list(static)]).encode()

    def read(text: bytes) -> tuple:
        fields, static = json.loads(text)
        if fields != mine:
            raise ValueError(
                f"this program was exported with a {name} of {fields}; here it has {mine}: use the"
                " release that exported it"
            )
        return tuple(static)

    return export.register_pytree_node_serialization(
        kind, serialized_name=name, serialize_auxdata=write, deserialize_auxdata=read
    )
