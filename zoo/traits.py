"""What a model's config may tell beside its size, as protocols that are asked for by name here."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..layers.streaming import DType
from .ranges import Dataclass


@runtime_checkable
class _Stemmed(Protocol):
    stem: Any


@runtime_checkable
class _Patched(Protocol):
    patch: int


@runtime_checkable
class _Strided(Protocol):
    stride: int


@runtime_checkable
class _Classifying(Protocol):
    num_classes: int


@runtime_checkable
class _Tokened(Protocol):
    class_tokens: int


@runtime_checkable
class _Unrolled(Protocol):
    unroll: int
    depth: int


@runtime_checkable
class _FindingPersons(Protocol):
    person_threshold: float
    heads: Any


@runtime_checkable
class _Typed(Protocol):
    dtype: DType
    __dataclass_fields__: ClassVar[dict[str, Any]]


@runtime_checkable
class _Configured(Protocol):
    config: Any

    def clone(self, **fields: Any) -> Any: ...


@runtime_checkable
class _Encoding(Protocol):
    encoder: Any

    def clone(self, **fields: Any) -> Any: ...


@runtime_checkable
class _Deciding(Protocol):
    decision: Any
    heads: Any
    frame_box: bool
    __dataclass_fields__: ClassVar[dict[str, Any]]


def undecided(module: Any) -> Any | None:
    """The module without its decision (``action.decision``); None where it has no place for one."""
    if not isinstance(module, _Configured) or not isinstance(module.config, _Deciding):
        return None
    return module.clone(config=dataclasses.replace(module.config, decision=None))


def classes_of_frame(module: Any) -> bool:
    """It tells classes of the whole frame, not of persons alone."""
    config = module.config
    if not isinstance(config, _Deciding):
        return False
    return "frame" in config.heads or (config.frame_box and "roi" in config.heads)


def in_dtype(module: Any, dtype: str) -> Any | None:
    """The module with this compute type; None where its config has none to choose. Of a stream
    around an encoder it is the encoder's."""
    if isinstance(module, _Configured):
        if not isinstance(module.config, _Typed):
            return None
        return module.clone(config=dataclasses.replace(module.config, dtype=dtype))
    inner = in_dtype(module.encoder, dtype) if isinstance(module, _Encoding) else None
    return module.clone(encoder=inner) if inner is not None else None


def stem_of(config: Dataclass) -> str:
    """Name of the encoder in front of the model (``encode.stems``), "" for pixels."""
    # a name, where a convolutional network has a number of channels
    stem = config.stem if isinstance(config, _Stemmed) else ""
    return stem if isinstance(stem, str) else ""


def patch_of(config: Dataclass) -> int | None:
    """Pixels a side of a patch; None for a model without patches, or with uneven ones."""
    return config.patch if isinstance(config, _Patched) and isinstance(config.patch, int) else None


def cell_of(config: Dataclass) -> int:
    """Pixels a side of what becomes one feature: a patch, or the stride; 1 if it says neither."""
    return patch_of(config) or (config.stride if isinstance(config, _Strided) else 1)


def classes_of(config: Dataclass) -> int | None:
    """Number of classes that the model tells apart; None if it does not say."""
    return config.num_classes if isinstance(config, _Classifying) else None


def class_tokens_of(config: Dataclass) -> int:
    """Number of class tokens."""
    return config.class_tokens if isinstance(config, _Tokened) else 0


def unrolled(config: Dataclass) -> dict[str, int]:
    """Config fields with which no layer is inside a loop; {} where there is none."""
    return {"unroll": config.depth} if isinstance(config, _Unrolled) else {}


def finds_persons(config: Dataclass) -> bool:
    """True for a model that looks for persons itself."""
    # a tuple of names, where a transformer has a number of heads
    heads = config.heads if isinstance(config, _FindingPersons) else ()
    return isinstance(heads, tuple) and "person" in heads
