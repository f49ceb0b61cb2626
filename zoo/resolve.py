"""From what a user types to a model: the module, its parameters and its card.

A registered name is looked for in ``zoo/bundled``, ``$STREAMZOO_HOME`` (default
``~/.cache/streamzoo``), and the installed package or on the Hugging Face Hub, as its card says, in
this order. A path is a weights file of ours, or a published folder; "hf:owner/repo[@rev][:file]" is
an address on the hub. What another project published is converted on the way (``zoo/convert.py``);
which model it is, its config.json and its keys tell. The card always is that of the checkpoint:
what its header or its config files say comes before what is registered for the architecture.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ..layers.codec.box import Quantised
from ..layers.codec.running import runs
from ..layers.streaming import DType, Fields, Json, Params
from . import codes, hub, packages, published, registry
from .adapted import adapted
from .convert import (
    ConvertError,
    Plan,
    convert_checkpoint,
    converter_for,
    describe,
    plan_checkpoint,
)
from .ctranslate2 import is_ctranslate2
from .errors import WeightsError
from .files import PICKLES, load_file, read_metadata, sha256
from .registry import Card
from .trees import as_float, check_tree, flatten, listing, nest
from .weights import same_family, shapes_like

if TYPE_CHECKING:
    from flax import linen as nn


class Resolved(NamedTuple):
    """A model that is ready, and what it says of itself."""

    model: nn.Module
    params: Params
    card: Card


def home() -> Path:
    """``$STREAMZOO_HOME``, default ``~/.cache/streamzoo``."""
    return Path(os.environ.get("STREAMZOO_HOME") or "~/.cache/streamzoo").expanduser()


@dataclass(frozen=True)
class Found:
    """Where a name, path or address leads.

    asked: as it was typed
    path:  the weights file, or the index of a model in parts
    name:  the registered name that was asked for, None for a path or an address
    source: the file's place on the hub, None for one of this machine
    """

    asked: str
    path: Path
    name: str | None = None
    source: hub.HubFile | None = None

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.source or self.path)


def find(name_or_path: str | Path) -> Found:
    """Looks for a name, path or address. A card's sha256 is checked.

    Raises WeightsError naming every place that was looked at, and UnknownModelError for what is
    neither a path nor a name.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if path.is_file():
        return Found(text, published.whole(path))
    if text.startswith("hf:"):
        source = hub.parse(text)
        try:
            return Found(text, hub.download_model(source), source=source)
        except hub.HubError as error:
            raise WeightsError(f"no weights; looked for {error}") from None
    if path.suffix.lower() in {".safetensors", *PICKLES}:
        raise WeightsError(f"{path}: no such weights file")
    if path.is_dir() and not registry.is_registered(text):
        return Found(text, published.weights_in(path))
    return _find_name(text)


def _find_name(name: str) -> Found:
    card = registry.model_card(name)
    source = hub.parse(card.source, card.weights) if card.source.startswith("hf:") else None
    packaged = card.source.startswith("pip:")
    if card.weights is None and source is None and not packaged:
        tags = registry.list_models(f"{card.arch}/*", pretrained=True)
        raise WeightsError(
            f"{name!r} is an architecture without weights; "
            + (f"with weights: {listing(tags)}; " if tags else "")
            + "load a file by its path (`streamzoo convert` makes one of another project's"
            " checkpoint), or take random weights from init_params(name)"
        )
    # under the model's own name: a file called model.safetensors could be that of any model
    file = card.weights or f"{card.arch}.{card.tag}.safetensors"
    tried = []
    for label, folder in (("bundled", registry.BUNDLED), ("STREAMZOO_HOME", home())):
        if (folder / file).is_file():
            return Found(name, _verified(folder / file, card), name)
        tried.append(f"{label} {folder / file} (no such file)")
    folder = home() / f"{card.arch}.{card.tag}"
    if folder.is_dir():
        return Found(name, _verified(published.weights_in(folder), card), name)
    if packaged:
        try:
            return Found(name, _verified(packages.installed(card.source), card), name)
        except WeightsError as error:
            tried.append(str(error))
    elif source is None:
        tried.append("Hugging Face Hub (the card names no repository)")
    else:
        tried.append(f"published files in the folder {folder} (no such folder)")
        try:
            return Found(name, _verified(hub.download_model(source), card), name, source)
        except hub.HubError as error:
            tried.append(str(error))
    raise WeightsError(f"no weights for {name!r}; looked for " + "; ".join(tried))


def find_weights(name_or_path: str | Path) -> Path:
    """The weights file of a path, a registered name or "hf:owner/repo[@rev][:file]"; of a model
    in parts their index. Raises as :func:`find`."""
    return find(name_or_path).path


def _verified(path: Path, card: Card) -> Path:
    if card.sha256 and (actual := sha256(path)) != card.sha256:
        # in the hub's cache the path is a link: deleting the link alone would bring it back
        raise WeightsError(
            f"{path.resolve()}: sha256 is {actual}, the card of {card.name!r} says {card.sha256};"
            " delete and download again"
        )
    return path


# --- what is found ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """A model that is known but not read: its name, config fields, and where they come from."""

    found: Found
    name: str | None
    overrides: Mapping[str, Any]
    metadata: Mapping[str, str]
    plan: Plan | None = None

    def named(self) -> str:
        """The registered name. Raises WeightsError where the file names no model."""
        if self.name is None:
            raise WeightsError(
                f"{self.found.path}: its header names no model; use"
                " load_weights(path, template=...)" + _looks_like(self.found.path, self.metadata)
            )
        return self.name

    def create(self, overrides: Mapping[str, Any]) -> nn.Module:
        """The module without its parameters."""
        model = registry.create_model(self.named(), **{**self.overrides, **overrides})
        return runs(model) if codes.needs_running(self.metadata) else model

    def params(self, template: Params | None) -> Params:
        """The parameters, checked, in the template's dtypes."""
        if self.plan is not None:
            return _converted(self.found, template)[1]
        return _own(self.found.path, self.metadata, template)

    def card(self, overrides: Mapping[str, Any]) -> Card:
        """The card of this checkpoint."""
        fields = {**self.overrides, **overrides}
        base = registry.model_card(self.found.name or self.named())
        config = registry.model_config(self.named(), **fields)
        facts: Fields = {"input_size": tuple(getattr(config, "image_size", base.input_size))}
        facts["overrides"] = {**base.overrides, **fields}
        if self.plan is not None:
            facts |= published.facts(self.found.path, self.found.source, config)
            if "image_size" in overrides:  # frames of another size: the same part of the picture
                size = tuple(config.image_size)
                short = facts.get("short_side", base.short_side)
                facts["short_side"] = short * max(size) // max(facts["input_size"])
                facts["input_size"] = size
            facts |= {} if self.found.name else {"source": str(self.found.source or "")}
        elif self.found.name is None:
            facts |= _beside(self.found.path) | told(self.metadata, self.found.path)
            _fits(facts.get("classes", ()), config, self.found.path)
        facts["latency"] = getattr(self.create(overrides), "latency", base.latency)
        return dataclasses.replace(base, **facts)


# What a weights file's header may state of its card, each under the field's name, as JSON.
HEADER_FACTS = (
    "summary", "licence", "paper", "trained_on", "frame_rate", "value_range", "mean", "std",
    "fit", "short_side", "fill", "filter",
    "classes", "multi_label", "metric", "metric_command",
)  # fmt: skip


def stated(card: Card) -> Fields:
    """What :func:`told` reads: the card's facts as entries of a header, those that it has."""
    facts = {field: getattr(card, field) for field in HEADER_FACTS}
    return {field: value for field, value in facts.items() if value not in ("", None, ())}


def _beside(path: Path) -> Json:
    """The facts of a card of its own that lies beside a weights file, as in ``zoo/bundled``."""
    file = path.with_suffix(".json")
    if not file.is_file():
        return {}
    try:
        card = Card.from_json(file.read_text(encoding="utf-8"), str(file))
    except (registry.RegistryError, OSError):
        return {}  # another's file
    return stated(card) if card.weights == path.name else {}


def _fits(classes: tuple[str, ...], config: Any, path: Path) -> None:
    count = getattr(config, "num_classes", len(classes))
    if classes and len(classes) != count:
        raise WeightsError(
            f"{path}: its header names {len(classes)} classes and its model tells {count} apart; "
            "write the file again, or leave the names out"
        )


def told(metadata: Mapping[str, str], where: Any) -> Fields:
    """The card's fields that the header of one of our files states.

    Raises WeightsError for a value that is not the JSON of such a field.
    """
    facts = {}
    for field in HEADER_FACTS:
        if field in metadata:
            facts[field] = registry.card_field(field, metadata[field], where)
    return facts


def _known(found: Found) -> _Model:
    """Which model it is. Raises WeightsError for a checkpoint that no converter reads."""
    foreign = found.path.name == hub.INDEX or found.path.suffix in (".ort", ".gguf")
    foreign = foreign or is_ctranslate2(found.path)
    metadata = {} if foreign else read_metadata(found.path)
    # a single file of another project is converted where its config.json is known to belong to it
    named = Path(found.asked).expanduser().is_file() and not foreign
    if (foreign or metadata.get("format") != "streamzoo") and not named:
        plan = _planned(found)
        return _Model(found, plan.model, plan.overrides, metadata, plan)
    name = found.name or metadata.get("model")
    stored = {} if found.name or name is None else _object(metadata, "config", found.path)
    return _Model(found, name, stored, metadata)


def _object(metadata: Mapping[str, str], key: str, path: Path) -> Json:
    try:
        stored = json.loads(metadata.get(key, "{}"))
    except ValueError as error:
        raise WeightsError(f"{path}: the {key} in its header is not JSON: {error}") from None
    if not isinstance(stored, dict):
        raise WeightsError(f"{path}: the {key} in its header is no JSON object: {stored!r}")
    return stored


def _prepared(found: Found) -> tuple[Path, str | None]:
    """(the file or folder to convert, the converter that the name asks for)."""
    if found.source is not None:
        hub.download_config(found.source)
    chosen = converter_for(found.name) if found.name else None
    return (found.path.parent if found.path.name == hub.INDEX else found.path), chosen


def _planned(found: Found) -> Plan:
    file, chosen = _prepared(found)
    try:
        return plan_checkpoint(file, chosen)
    except ConvertError as error:
        raise ConvertError(f"{found.where}: {error}") from None


def _converted(found: Found, template: Params | None) -> tuple[Plan, Params]:
    """(plan, variables) of another project's checkpoint, checked against the template, or against
    the model of the name."""
    file, chosen = _prepared(found)
    try:
        plan, variables = convert_checkpoint(file, chosen)
    except ConvertError as error:
        raise ConvertError(f"{found.where}: {error}") from None
    hint = f"; it looks like {describe(plan)}"
    if found.name:
        named = shapes_like(found.name, registry.create_model(found.name))
        check_tree(flatten(variables), named, found.where, hint=hint)
    if template is None:
        return plan, jax.device_put(variables)
    return plan, _fitted(flatten(variables), template, found.where, hint)


def _fitted(flat: Params, template: Params, where: str, hint: str) -> Params:
    check_tree(flat, template, where, hint=hint)
    dtypes = {name: leaf.dtype for name, leaf in flatten(template).items()}
    return jax.device_put(nest({k: _typed(v, dtypes[k]) for k, v in flat.items()}))


def _typed(array: Any, dtype: DType) -> Any:
    # codes are what they are; the layer takes them in its own type
    return array if isinstance(array, Quantised) else array.astype(dtype, copy=False)


def _own(path: Path, metadata: Mapping[str, str], template: Params | None) -> Params:
    """Variables of one of our files."""
    flat = flatten(load_file(path)[0])
    if template is None:
        return jax.device_put(nest({k: as_float(v, np.float32) for k, v in flat.items()}))
    if "adapts" in metadata:
        base = _known(find(metadata["adapts"])).params(template)
        flat = flatten(adapted(base, flat, path))
    flat |= _parts(metadata, template, path)
    return _fitted(flat, template, str(path), _looks_like(path, metadata))


def _parts(metadata: Mapping[str, str], template: Params, path: Path) -> Params:
    """The parameters that a file shares with other names, as ``parts`` in its header says."""
    parts: dict[str, Any] = {}
    wanted = flatten(template)
    for prefix, name in _object(metadata, "parts", path).items():
        for key, value in flatten(load_file(find_weights(name))[0]).items():
            if f"{prefix}/{key}" in wanted:
                parts[f"{prefix}/{key}"] = value
    return parts


def _looks_like(path: Path, metadata: Mapping[str, str]) -> str:
    """What a file that does not fit may be, as the end of a sentence."""
    if metadata.get("format") == "streamzoo":
        if "model" in metadata:
            return f"; the file is of {metadata['model']!r}"
        return "; another project's checkpoint is read by `streamzoo convert`"
    try:
        plan = plan_checkpoint(path)
    except ConvertError:
        return "; another project's checkpoint is read by `streamzoo convert`"
    return f"; it looks like {describe(plan)}: `streamzoo convert` reads it"


# --- the doors -------------------------------------------------------------------------------


def resolve(name_or_path: str | Path, **overrides: Any) -> Resolved:
    """(module, variables, card) of a name with weights, of a file whose header names its model, of
    a published folder, or of a hub repository, "hf:owner/repo", that we can convert.

    overrides: config fields to replace; ones that change shapes make the weights misfit
    Raises UnknownModelError, UnknownOverrideError and WeightsError.
    """
    known = _known(find(name_or_path))
    model = known.create(overrides)
    params = known.params(shapes_like(known.named(), model))
    return Resolved(model, params, known.card(overrides))


def load(name_or_path: str | Path, **overrides: Any) -> tuple[nn.Module, Params]:
    """(module, variables), as :func:`resolve`."""
    known = _known(find(name_or_path))
    model = known.create(overrides)
    return model, known.params(shapes_like(known.named(), model))


def card_of(name_or_path: str | Path, **overrides: Any) -> Card:
    """The card of a name, file, folder or address, as :func:`resolve`; no weights are read, and
    none are wanted for a name.

    Raises as :func:`resolve`.
    """
    text = os.fspath(name_or_path)
    if registry.is_registered(text) and not Path(text).expanduser().is_file():
        card = registry.model_card(text)
        size = getattr(registry.model_config(text, **overrides), "image_size", card.input_size)
        fields = {**card.overrides, **overrides}
        return dataclasses.replace(card, input_size=tuple(size), overrides=fields)
    return _known(find(name_or_path)).card(overrides)


def load_weights(
    name_or_path: str | Path, model: nn.Module | None = None, *, template: Params | None = None
) -> Params:
    """Variables ``{"params": tree}`` of jax arrays, checked and in the dtypes of the model.

    name_or_path: as in :func:`resolve`
    model:        module to check against; by default the one the name or the file's header says
    template:     variables of arrays or ShapeDtypeStruct instead of a model
    A file that names no model, without model and template, is returned unchecked, floating
    arrays as float32. Raises WeightsError listing all names that do not fit.
    """
    known = _known(find(name_or_path))
    if template is None:
        if known.name is None and model is not None:
            raise WeightsError(
                f"{known.found.path}: its header names no model; pass template= instead"
                + _looks_like(known.found.path, known.metadata)
            )
        if known.name is not None:
            what = describe(known.plan) if known.plan else ""
            if model is not None:
                same_family(known.name, model, known.found.where, what)
                template = shapes_like(known.name, model)
            elif known.plan is None:
                template = shapes_like(known.name, known.create({}))
    return known.params(template)
