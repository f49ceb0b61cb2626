"""What a published config.json says: the numbers that no weight shows.

Heads, activation, the epsilon of norms, the base of angles are in that file alone. transformers
writes every field of a model's own config, and of the configs inside it only what differs from
their class: what is left out there has the class's value. Nothing is guessed from a width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .convert import Config, ConvertError
from .trees import listing


class Settings(dict[str, Any]):
    """The fields of one (part of a) config, complete.

    family: the model's name in messages
    stated: the fields that the file states, or leaves to its class on purpose
    """

    def __init__(self, family: str, values: Mapping[str, Any], stated: frozenset[str]):
        super().__init__(values)
        self.family, self.stated = family, stated

    def agree(self, **found: Any) -> None:
        """Compares stated fields with what the weights show.

        Raises ConvertError naming every field in which they differ: the file is incomplete, or the
        config is another model's.
        """
        bad = [
            f"{key} {_short(self[key])} and the weights have {_short(value)}"
            for key, value in found.items()
            if key in self.stated and not _same(self[key], value)
        ]
        if bad:
            raise ConvertError(
                f"{self.family}: config.json says {'; '.join(bad)}: the weights are incomplete, or"
                " the config is of another model; take both files from one repository"
            )

    def heads(self, dim: int, key: str = "num_attention_heads") -> int:
        """The number of heads. Raises ConvertError where they do not divide the width."""
        if self[key] < 1 or dim % self[key]:
            raise ConvertError(
                f"{self.family}: config.json says {key} {self[key]}, and the weights are {dim} wide"
            )
        return self[key]


def settings(
    config: Config, family: str, defaults: Mapping[str, Any], section: str = ""
) -> Settings:
    """The fields of ``config``, or of its ``section`` where it has one.

    defaults: field -> the value of transformers' config class; these are what is needed

    Raises ConvertError where there is no config, where one that names no model_type leaves a needed
    field out, and for a value of another kind than the default's.
    """
    if config is None:
        raise ConvertError(
            f"{family}: there is no config.json beside the weights, and it alone tells"
            f" {listing(sorted(defaults), limit=5)}; fetch config.json of the same repository into"
            " the same folder"
        )
    part = config.get(section) if section else None
    if part is not None and not isinstance(part, Mapping):
        raise ConvertError(f"{family}: config.json has {section} {_short(part)}, not an object")
    inner = part is not None or bool(section) and not set(defaults) & set(config)
    given = dict(part or {} if inner else config)
    lacking = [key for key in defaults if key not in given]
    if lacking and "model_type" not in config:
        raise ConvertError(
            f"{family}: config.json names no model_type and says nothing of {listing(lacking)};"
            " fetch the config.json of the same repository"
        )
    for key, default in defaults.items():
        if key in given and not _like(given[key], default):
            raise ConvertError(
                f"{family}: config.json has {key} {_short(given[key])}, not such as {default!r}"
            )
    stated = frozenset(given) | (frozenset(defaults) if inner else frozenset())
    return Settings(family, {**defaults, **given}, stated)


def _like(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int | float):
        # sides may be one number or a pair
        if isinstance(value, list) and isinstance(default, int):
            return len(value) in (2, 3) and all(type(v) is int for v in value)
        return isinstance(value, int | float)
    if isinstance(default, list):
        return isinstance(value, list) and all(type(v) in (int, float) for v in value)
    return default is None or isinstance(value, type(default))


def _same(told: Any, found: Any) -> bool:
    if isinstance(told, list | tuple):
        many = isinstance(found, list | tuple)
        return tuple(told) == tuple(found) if many else set(told) == {found}
    if isinstance(found, list | tuple):
        return set(found) == {told}
    return told is None or abs(told - found) < 1e-6 * max(1.0, abs(found))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


def pair(side: Any) -> tuple[int, int]:
    """(height, width) of a side, or of a pair of them."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])
