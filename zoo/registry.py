"""Names, cards and builders of the models.

A name is ``arch-size16`` (an architecture at patch 16) or ``arch-size16/tag`` (the same
architecture as it was trained on something). A tag is either registered in code or found as a
card, ``zoo/bundled/*.json``, beside its safetensors file. A name without a tag has no weights:
it is an architecture to train.

Importing this module costs nothing but the standard library; no weights are read and no hub
client is imported before a model is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import importlib
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from ..layers.streaming import Fields

if TYPE_CHECKING:
    from flax import linen as nn

ZOO = Path(__file__).parent
BUNDLED = ZOO / "bundled"
FITS = ("stretch", "letterbox", "crop", "pad")
TASKS = (
    "action", "encode", "segment", "track", "live", "detect", "pose", "text", "speech", "generate",
    "depth", "follow", "matte", "describe",
)  # fmt: skip
_NAME = re.compile(r"[a-z0-9]+(?:[-._][a-z0-9]+)*(?:/[a-z0-9]+(?:[-._][a-z0-9]+)*)?")


class RegistryError(ValueError):
    """A registration or a card that cannot be right."""


class UnknownModelError(ValueError):
    """No model has this name."""


class UnknownOverrideError(ValueError):
    """A model's config has no such field."""


class InputSize(tuple[int, int]):
    """A card's (height, width), which knows its card: a source that is opened at it makes the
    checkpoint's own picture (``zoo.picture``), not a squeezed one."""

    card: Card


@dataclass(frozen=True)
class Card:
    """What a user needs to know about one name.

    name:           the registered name
    arch, tag:      its two halves; tag is "" for an architecture without weights
    task:           what it does, one of ``TASKS``; by default its module's class says (``task``)
    summary:        one line
    source:         where the weights come from; "hf:owner/repo[@rev][:file]" can be downloaded,
                    "pip:package==version:file" is in an installed package
    sha256:         of the weights file, "" if there is none
    licence, paper: SPDX name; title or address
    trained_on:     data set and protocol, or the name of the teacher
    input_size:     (height, width) in pixels; (1, 1) for a model of audio
    fit:            how frames come to that size: "stretch" them, "letterbox", which keeps
                    their aspect ratio (``preprocess.frame_shape``), "crop" the middle, or "pad"
    short_side:     of "crop": pixels of the shorter side before it is cut
    fill:           of "letterbox": grey of what the picture leaves free, 0 to 255
    filter:         resampling of the checkpoint's own pipeline (``picture.KERNELS``); "" for a
                    model that was trained on the frames of our sources
    frame_rate:     frames/s the model was trained at, None if it has none of its own;
                    of a model of audio samples/s
    value_range:    of the frames as they come (uint8 video: 0..255), before mean and std
    mean, std:      per colour channel, applied to frames scaled to 0..1
    classes:        labels in the order of the logits
    multi_label:    a person can have several (sigmoid), or has one (softmax)
    latency:        frames until an output is final
    carry_bytes:    of the state of one stream, 0 if it keeps none
    metric:         figure and name; "" if not measured
    metric_command: the command that measured it
    weights:        file name of the safetensors file, or None
    streaming:      True if the module follows the carry law
    overrides:      config fields in which a tag differs from its architecture
    """

    name: str
    arch: str = ""
    tag: str = ""
    task: str = ""
    summary: str = ""
    source: str = ""
    sha256: str = ""
    licence: str = "Apache-2.0"
    paper: str = ""
    trained_on: str = ""
    input_size: tuple[int, int] = (224, 224)
    fit: str = "stretch"
    short_side: int = 0
    fill: int = 0
    filter: str = ""
    frame_rate: float | None = None
    value_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    classes: tuple[str, ...] = ()
    multi_label: bool = True
    latency: int = 0
    carry_bytes: int = 0
    metric: str = ""
    metric_command: str = ""
    weights: str | None = None
    streaming: bool = True
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RegistryError(
                f"model name {self.name!r} is not 'arch-size' or 'arch-size/tag' in lower case"
            )
        arch, _, tag = self.name.partition("/")
        if (self.arch or arch, self.tag or tag) != (arch, tag):
            raise RegistryError(f"card {self.name!r}: arch or tag is not that of its name")
        object.__setattr__(self, "arch", arch)
        object.__setattr__(self, "tag", tag)
        overrides = {key: _tuples(value) for key, value in self.overrides.items()}
        object.__setattr__(self, "overrides", overrides)
        size = InputSize(self.input_size)
        size.card = self
        object.__setattr__(self, "input_size", size)
        if self.task not in ("", *TASKS):
            known = ", ".join(TASKS)
            raise RegistryError(f"card {self.name!r}: task {self.task!r} is not one of {known}")
        if self.fit not in FITS:
            raise RegistryError(
                f"card {self.name!r}: fit {self.fit!r} is not one of {', '.join(FITS)}"
            )
        if self.weights is not None and not tag:
            raise RegistryError(f"card {self.name!r} has weights, so its name needs a tag")
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise RegistryError(f"card {self.name!r}: sha256 is not 64 lower-case hex digits")

    @property
    def pretrained(self) -> bool:
        """True if there are weights for this name."""
        return self.weights is not None or self.source.startswith(("hf:", "pip:"))

    @property
    def own_rule(self) -> bool:
        """True if ``picture`` makes the frames, and not the frame sources by themselves."""
        return self.fit != "letterbox" and bool(self.filter or self.fit != "stretch")

    def to_json(self) -> str:
        """The card as indented JSON, the form of ``zoo/bundled/*.json``."""
        values = dataclasses.asdict(self) | {"overrides": dict(self.overrides)}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "card") -> Card:
        """Reads :meth:`to_json`. Raises RegistryError naming ``where`` and what is wrong."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise RegistryError(f"{where} is not JSON: {error}") from None
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or "name" not in values:
            raise RegistryError(f"{where}: a card is a JSON object with a 'name'")
        if unknown := sorted(set(values) - known):
            raise RegistryError(f"{where}: unknown fields {', '.join(unknown)}")
        fields: Fields = {k: _tuples(v) for k, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Entry:
    """One registered architecture or tag."""

    card: Card
    build: Callable[..., nn.Module]
    config: Any
    inputs: Callable[[nn.Module, Card], tuple] | None = None


_ENTRIES: dict[str, Entry] = {}
_BUNDLED: dict[str, Card] = {}


def register(
    name: str,
    build: Callable[..., nn.Module],
    config: Any,
    card: Card,
    *,
    inputs: Callable[[nn.Module, Card], tuple] | None = None,
) -> None:
    """Adds a model.

    build:  config -> unbound linen Module
    config: frozen dataclass, shapes only
    card:   its ``name`` must be ``name``; ``card.overrides`` are applied to ``config``
    inputs: (module, card) -> the arguments of ``module.init`` after the key. By default
            (init_carry(1), frames [1, 1, h, w, 3]) for a streaming model and
            (frames [1, T, h, w, 3],) otherwise; (h, w) is ``module.config.image_size``, T is
            ``module.config.frames``, or the card's input size and 1 where there is no such field
    Raises RegistryError for a second registration and for a config that is no frozen dataclass.
    """
    if card.name != name:
        raise RegistryError(f"{name!r} is registered with the card of {card.name!r}")
    if name in _ENTRIES:
        raise RegistryError(f"model {name!r} is registered already")
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise RegistryError(f"model {name!r}: config is no dataclass instance: {config!r}")
    if not config.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise RegistryError(f"model {name!r}: the config {type(config).__name__} is not frozen")
    card = as_task(card, build)
    _ENTRIES[name] = Entry(card, build, apply_overrides(config, card.overrides, name), inputs)


def as_task(card: Card, module: Any) -> Card:
    """The card with its task: what it says, else what the module or its class says of itself. A
    function that builds says nothing, nor does a module of another project."""
    return card if card.task else dataclasses.replace(card, task=getattr(module, "task", ""))


@functools.cache
def architectures() -> dict[str, tuple[str, ...]]:
    """Every folder of zoo/ that registers names, as a module path in zoo ("detect.yolox") -> the
    patterns of the names, which its ``__init__.py`` states (``NAMES``).

    The names themselves are registered by its ``names.py``, on the first use of one.
    """
    folders = [path.parent.relative_to(ZOO).parts for path in sorted(ZOO.glob("*/*/names.py"))]
    modules = {
        parts: importlib.import_module("." + ".".join(parts), __package__) for parts in folders
    }
    return {".".join(parts): module.NAMES for parts, module in modules.items()}


def architectures_of(name: str) -> list[str]:
    """The folders of zoo/ that may register ``name``, by their patterns."""
    arch = name.split("/")[0]
    return [
        folder
        for folder, patterns in architectures().items()
        if any(fnmatch.fnmatchcase(arch, pattern) for pattern in patterns)
    ]


def import_names(*folders: str) -> None:
    """Registers the names of folders of zoo/ ("detect.yolox"), of all without arguments."""
    for folder in folders or architectures():
        importlib.import_module(f".{folder}.names", __package__)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which s8 comes before s16."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def list_models(
    pattern: str = "*", *, streaming: bool | None = None, pretrained: bool | None = None
) -> list[str]:
    """Names that match a shell pattern ("*tsa*"), in natural order.

    streaming, pretrained: keep only models that are (True) or are not (False); None keeps all.
    """
    import_names()
    cards = [entry.card for entry in _ENTRIES.values()]
    cards += [card for name, card in _BUNDLED.items() if name not in _ENTRIES]
    return sorted(
        (
            card.name
            for card in cards
            if fnmatch.fnmatchcase(card.name, pattern)
            and streaming in (None, card.streaming)
            and pretrained in (None, card.pretrained)
        ),
        key=natural,
    )


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of ``known`` that look most like ``word``, best first."""
    return difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)


def find(name: str) -> Entry:
    """The entry of a name; a bundled tag gets its architecture's builder and config.

    Raises UnknownModelError naming the nearest models.
    """
    if (entry := _entry(name)) is not None:
        return entry
    if card := _BUNDLED.get(name):
        base = _entry(card.arch)
        if base is None:
            raise UnknownModelError(
                f"bundled card {name!r}: its architecture {card.arch!r} is not registered"
            )
        config = apply_overrides(base.config, card.overrides, name)
        card = dataclasses.replace(card, task=card.task or base.card.task)
        return Entry(card, base.build, config, base.inputs)
    names = list_models()
    close = nearest(name, names) or nearest(name.partition("/")[0], names)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise UnknownModelError(
        f"unknown model {name!r}{hint} (all names: streamzoo list, or list_models())"
    )


def is_registered(name: str) -> bool:
    """True for a name of :func:`list_models`."""
    return _entry(name) is not None or name in _BUNDLED


def _entry(name: str) -> Entry | None:
    """What is registered under exactly this name; its folder is imported if need be."""
    if name not in _ENTRIES and (folders := architectures_of(name)):
        import_names(*folders)
    return _ENTRIES.get(name)


def card_field(field: str, text: str, where: Any) -> Any:
    """A card's field from its JSON. Raises RegistryError naming ``where`` for another kind."""
    default = getattr(Card("any"), field)
    try:
        value: Any = _tuples(json.loads(text))
    except ValueError:
        value = text  # words need no quotes
    kind = (float, int, type(None)) if field == "frame_rate" else type(default)
    if not isinstance(value, kind) or isinstance(value, bool) is not isinstance(default, bool):
        raise RegistryError(f"{where}: its {field} is {text[:80]!r}, not as {default!r}")
    kinds = {"classes": str, "mean": (int, float), "std": (int, float)}
    if field in kinds and not all(isinstance(one, kinds[field]) for one in value):
        raise RegistryError(f"{where}: its {field} is {text[:80]!r}, not as {default!r}")
    if field in ("mean", "std") and len(value) != len(default):
        raise RegistryError(f"{where}: its {field} has {len(value)} numbers, not {len(default)}")
    sizes = {"frame_rate": (value,), "std": value}.get(field) or ()
    if not all(one is None or one > 0 for one in sizes):
        raise RegistryError(f"{where}: its {field} is {text[:80]!r}: it is above 0")
    return value


def model_card(name: str) -> Card:
    """The card of a name. Raises UnknownModelError."""
    return find(name).card


def model_config(name: str, **overrides: Any) -> Any:
    """The frozen config of a name with ``overrides`` applied. Raises as create_model."""
    return apply_overrides(find(name).config, overrides, name)


def create_model(name: str, **overrides: Any) -> nn.Module:
    """The unbound linen module of a name, without weights.

    overrides: config fields to replace
    Raises UnknownModelError, and UnknownOverrideError naming the nearest fields.
    """
    entry = find(name)
    return entry.build(apply_overrides(entry.config, overrides, name))


def apply_overrides(config: Any, overrides: Mapping[str, Any], name: str) -> Any:
    """``config`` with fields replaced; lists become tuples, and mappings the dataclasses that
    the field holds, so that values read from JSON fit. Raises UnknownOverrideError."""
    fields = {f.name: str(f.type) for f in dataclasses.fields(config) if f.init}
    changes = {}
    for key, value in overrides.items():
        if key not in fields:
            close = nearest(key, fields)
            hint = f"did you mean {', '.join(close)}?" if close else f"fields: {', '.join(fields)}"
            raise UnknownOverrideError(
                f"{name!r}: {type(config).__name__} has no field {key!r}; {hint}"
            )
        old = getattr(config, key)
        if dataclasses.is_dataclass(old) and isinstance(value, Mapping):
            value = apply_overrides(old, value, f"{name}.{key}")
        elif isinstance(value, str):
            pass  # the config reads it, e.g. a temporal pattern
        elif isinstance(old, tuple) and old and dataclasses.is_dataclass(old[0]):
            if not isinstance(value, list | tuple):
                raise UnknownOverrideError(f"{name!r}: {key}={value!r} is not such as {old!r}")
            value = tuple(_element(type(old[0]), v, f"{name}.{key}") for v in value)
        changes[key] = _tuples(value)
        free = key.endswith("dtype") or value is None and "None" in fields[key]
        if not free and not _alike(changes[key], old):
            raise UnknownOverrideError(f"{name!r}: {key}={value!r} is not such as {old!r}")
    try:
        return dataclasses.replace(config, **changes) if changes else config
    except TypeError as error:  # what a config computes from its fields
        raise UnknownOverrideError(f"{name!r}: {changes!r} do not go together: {error}") from None


def _alike(value: Any, old: Any) -> bool:
    """Whether a field that is ``old`` may be ``value``: numbers stay numbers, and not negative."""
    if old is None or isinstance(value, str) and isinstance(old, tuple | str):
        return True  # a tuple may be written as text, e.g. a temporal pattern
    if value is None:
        return False
    if isinstance(old, bool) or isinstance(value, bool):
        return isinstance(old, bool) and isinstance(value, bool)
    if isinstance(old, int):
        return isinstance(value, SupportsIndex) and (old < 0 or operator.index(value) >= 0)
    if isinstance(old, float):
        return isinstance(value, int | float) or hasattr(value, "__float__")
    if isinstance(old, tuple):
        numbers = bool(old) and all(isinstance(v, int) for v in old)
        return isinstance(value, tuple) and (not numbers or all(_alike(v, old[0]) for v in value))
    return True


def _element(kind: type, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        return kind(**{k: _tuples(v) for k, v in value.items()})
    except TypeError as error:
        raise UnknownOverrideError(f"{name!r}: not a {kind.__name__}: {error}") from None


def _tuples(value: Any) -> Any:
    # configs are hashable (static arguments of jit), so a list never belongs in one
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def discover(folder: Path = BUNDLED) -> list[str]:
    """Reads the cards in a folder; returns the names found. Done for ``bundled`` at import.

    Raises RegistryError for a card that cannot be read, or one name in two files.
    """
    names = []
    for path in sorted(folder.glob("*.json")):
        card = Card.from_json(path.read_text(encoding="utf-8"), str(path))
        if card.name in names or not card.tag:
            raise RegistryError(f"{path}: {card.name!r} is in another card, or has no tag")
        _BUNDLED[card.name] = card
        names.append(card.name)
    return names


discover()
