"""Converter tables: another project's checkpoint keys -> our parameter tree.

A table is a list of :class:`Rule`. Each rule is a regular expression that must match a whole
source key, a template for our '/'-joined parameter path, and a transform of the array. The four
things checkpoints need beyond renaming are fields of the rule:

- ``stack=L``: the regex group ``layer`` is a depth index; the arrays of all layers are stacked
  on a new axis 0, so ``encoder.layer.7.fc.weight`` fills row 7 of ``blocks/layer0/fc/kernel``
  [L, in, out]. ``period=p`` serves a depth that repeats every p blocks: layer i goes to row
  i // p of the path with ``{slot}`` = i % p (``stack`` is then the depth divided by p);
- ``part=(i, n)``: this array is part i of n that are concatenated along ``axis`` of the
  transformed array, before stacking (q, k, v -> one kernel [D, 3D]: axis -1, n = 3);
- ``merge="sum"``: the n parts are added instead (torch.nn.LSTM keeps two biases);
- ``optional=True``: it is no error when no key matches.

    D, L = 768, 12
    layer = r"videomae\\.encoder\\.layer\\.(?P<layer>\\d+)\\."
    rules = [
        Rule(layer + r"attention\\.attention\\.query\\.weight",
             "blocks/layer0/attn/qkv/kernel", linear, stack=L, part=(0, 3)),
        Rule(layer + r"attention\\.attention\\.key\\.weight",
             "blocks/layer0/attn/qkv/kernel", linear, stack=L, part=(1, 3)),
        Rule(layer + r"attention\\.attention\\.value\\.weight",
             "blocks/layer0/attn/qkv/kernel", linear, stack=L, part=(2, 3)),
        # a model without a key bias: [q, 0] and [v] are the two parts of the fused bias
        Rule(layer + r"attention\\.attention\\.q_bias",
             "blocks/layer0/attn/qkv/bias", then_zeros, stack=L, part=(0, 2)),
        Rule(layer + r"attention\\.attention\\.v_bias",
             "blocks/layer0/attn/qkv/bias", stack=L, part=(1, 2)),
        Rule(r"videomae\\.embeddings\\.patch_embeddings\\.projection\\.weight",
             "patch_embed/kernel", conv3d),
    ]
    variables = convert(tensors, rules, ignore=(r"decoder\\..*",), template=shapes)

Every rule that matches a key applies, so one source can fill several targets. A source that no
rule uses and no ``ignore`` pattern covers, and a target that is not completely filled, are
errors; all of them are listed at once.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..layers.streaming import DType, Json, Params
from . import registry
from .errors import WeightsError
from .files import Config, Tensors
from .graphs import read_graph
from .published import parts_of, read_json, weights_in, whole
from .trees import as_float, check_tree, listing, nest
from .weights import shapes_of

Transform = Callable[[np.ndarray], np.ndarray]


class ConvertError(WeightsError):
    """A checkpoint and a converter table do not fit together."""


# --- transforms ------------------------------------------------------------------------------


def identity(x: np.ndarray) -> np.ndarray:
    """The array as it is (biases, norms, embeddings)."""
    return x


def linear(x: np.ndarray) -> np.ndarray:
    """torch.nn.Linear weight [O, I] -> Dense kernel [I, O]."""
    return x.transpose(1, 0)


def conv1d(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv1d weight [O, I, W] -> kernel [W, I, O]."""
    return x.transpose(2, 1, 0)


def conv2d(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv2d weight [O, I, H, W] -> kernel [H, W, I, O]."""
    return x.transpose(2, 3, 1, 0)


def conv3d(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv3d weight [O, I, D, H, W] -> kernel [D, H, W, I, O]."""
    return x.transpose(2, 3, 4, 1, 0)


def then_zeros(x: np.ndarray) -> np.ndarray:
    """[..., D] -> [..., 2D]: followed by as many zeros, for a neighbour the source lacks."""
    return np.concatenate([x, np.zeros_like(x)], axis=-1)


def squeeze0(x: np.ndarray) -> np.ndarray:
    """[1, ...] -> [...] (class tokens and position tables are often kept with a batch axis)."""
    return x.squeeze(0)


# --- rules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One line of a converter table; see the module docstring.

    pattern:   regex that must match the whole source key; named groups are free to use in
               ``target``; the group ``layer`` (digits) is the depth index
    target:    our path without "params/", '/'-joined; ``{group}`` is replaced by the regex
               group, ``{slot}`` by layer % period
    transform: applied to each source array by itself
    stack:     number of rows of the new leading depth axis, or None for no such axis
    period:    layer i fills row i // period
    part:      (index, count) of this array among those merged into the target
    axis:      axis of the concatenation, counted in the transformed array without depth
    merge:     "concat" or "sum"
    optional:  True if the key may be absent
    """

    pattern: str
    target: str
    transform: Transform = identity
    stack: int | None = None
    period: int = 1
    part: tuple[int, int] = (0, 1)
    axis: int = -1
    merge: Literal["concat", "sum"] = "concat"
    optional: bool = False

    def __post_init__(self) -> None:
        groups = re.compile(self.pattern).groupindex
        if self.stack is not None and "layer" not in groups:
            raise ConvertError(f"rule {self.pattern!r}: stack needs a regex group named 'layer'")
        if not 0 <= self.part[0] < self.part[1]:
            raise ConvertError(f"rule {self.pattern!r}: part {self.part} is not (index, count)")


@dataclass
class _Target:
    """What has arrived for one of our parameters: arrays by (row, part)."""

    rule: Rule
    rows: dict[int, dict[int, tuple[str, np.ndarray]]] = field(default_factory=dict)


def convert(
    tensors: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    *,
    ignore: Iterable[str] = (),
    template: Params | None = None,
    dtype: DType = np.float32,
) -> Params:
    """Applies a table to a checkpoint.

    tensors:  source key -> array (bfloat16 welcome)
    rules:    the table
    ignore:   regexes of source keys (whole key) that are left out on purpose
    template: variables ``{"params": tree}`` of arrays or ``jax.ShapeDtypeStruct``; when given,
              missing, unexpected and mis-shaped parameters are errors too
    dtype:    floating arrays are cast to it (None: as they come)

    Returns ``{"params": tree}`` of numpy arrays, the linen variables dict.
    Raises ConvertError with every unused key, unfilled target and clash in one message.
    """
    targets: dict[str, _Target] = {}
    problems: dict[str, list[str]] = {
        "unused source keys": [],
        "unfilled targets": [],
        "clashes": [],
        "failed transforms": [],
    }
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    skip = [re.compile(pattern) for pattern in ignore]
    hits = [0] * len(compiled)
    for key, value in tensors.items():
        used = False
        for number, (regex, rule) in enumerate(compiled):
            match = regex.fullmatch(key)
            if match is None:
                continue
            used = True
            hits[number] += 1
            _place(targets, key, value, match, rule, problems)
        if not used and not any(regex.fullmatch(key) for regex in skip):
            problems["unused source keys"].append(key)

    for count, rule in zip(hits, rules, strict=False):
        if count == 0 and not rule.optional:
            problems["unfilled targets"].append(f"{rule.target} (no key matches {rule.pattern!r})")
    flat: dict[str, np.ndarray] = {}
    for path, target in targets.items():
        merged = _assemble(path, target, problems)
        if merged is not None:
            flat[path] = merged if dtype is None else as_float(merged, dtype)
    _raise(problems)
    if template is not None:
        check_tree(flat, template, "the converted checkpoint", error=ConvertError)
    return nest(flat)


def _place(targets, key, value, match, rule: Rule, problems) -> None:
    fields = match.groupdict()
    row = 0
    if "layer" in fields:
        layer = int(fields["layer"])
        fields["slot"] = str(layer % rule.period)
        row = layer // rule.period if rule.stack is not None else 0
    path = rule.target.format(**fields)
    target = targets.setdefault(path, _Target(rule))
    same = (rule.stack, rule.part[1], rule.axis, rule.merge)
    first = target.rule
    if same != (first.stack, first.part[1], first.axis, first.merge):
        problems["clashes"].append(
            f"{path}: the rules {first.pattern!r} and {rule.pattern!r} "
            "disagree on stack, part count, axis or merge"
        )
        return
    if rule.stack is not None and row >= rule.stack:
        problems["clashes"].append(f"{path}: {key} is row {row} of {rule.stack}")
        return
    parts = target.rows.setdefault(row, {})
    if rule.part[0] in parts:
        problems["clashes"].append(f"{path}: filled by {parts[rule.part[0]][0]} and by {key}")
        return
    try:
        parts[rule.part[0]] = (key, rule.transform(np.asarray(value)))
    except ValueError as error:
        name = getattr(rule.transform, "__name__", "transform")
        problems["failed transforms"].append(f"{name}({key} {list(value.shape)}): {error}")


def _assemble(path: str, target: _Target, problems) -> np.ndarray | None:
    rule = target.rule
    count = rule.part[1]
    wanted = range(rule.stack) if rule.stack is not None else range(1)
    lacking = [
        (f"row {row} " if rule.stack is not None else "") + f"part {part} of {count}"
        for row in wanted
        for part in range(count)
        if part not in target.rows.get(row, {})
    ]
    if lacking:
        problems["unfilled targets"].append(f"{path} ({listing(lacking, limit=4)})")
        return None
    try:
        rows = []
        for row in wanted:
            parts = [target.rows[row][part][1] for part in range(count)]
            if rule.merge == "sum":
                # a Python sum would broadcast unequal shapes in silence
                rows.append(np.stack(parts).sum(axis=0, dtype=parts[0].dtype))
            else:
                rows.append(parts[0] if count == 1 else np.concatenate(parts, axis=rule.axis))
        return np.stack(rows) if rule.stack is not None else rows[0]
    except ValueError as error:
        arrived = [item for parts in target.rows.values() for item in parts.values()]
        shapes = [f"{key} {list(array.shape)}" for key, array in arrived]
        problems["failed transforms"].append(f"{path}: {error} ({listing(shapes, limit=6)})")
        return None


def _raise(problems: Mapping[str, list[str]]) -> None:
    found = [f"{len(v)} {kind}: {listing(v)}" for kind, v in problems.items() if v]
    if found:
        raise ConvertError("the checkpoint does not fit this converter table: " + "; ".join(found))


# --- converters ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a converter decided about one checkpoint.

    model and overrides are for ``create_model``; ignore as in :func:`convert`; prepare, if given,
    turns the tensors into those the rules read, for what needs several at a time (folding batch
    norms). dtype is what the weights come in where that is smaller than float32: a file of them
    written in it loses nothing.
    """

    model: str
    rules: Sequence[Rule]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Converter:
    """One family of source checkpoints.

    detect: (keys, config) -> True if this converter reads such a checkpoint; config is the
            parsed ``config.json`` beside it, or None
    plan:   (tensors, config) -> :class:`Plan`; sizes that are not in a config are read from
            the shapes of ``tensors``
    models: a pattern of our names for which this converter is taken whatever recognises the file:
            several models may come out of one checkpoint (a tower, or both)
    """

    name: str
    detect: Callable[[frozenset[str], Mapping[str, Any] | None], bool]
    plan: Callable[[Mapping[str, np.ndarray], Mapping[str, Any] | None], Plan]
    about: str = ""
    models: str = ""


CONVERTERS: dict[str, Converter] = {}


def register_converter(converter: Converter) -> Converter:
    """Adds a converter to ``CONVERTERS``; a name may be taken only once."""
    if converter.name in CONVERTERS:
        raise ConvertError(f"converter {converter.name!r} is registered already")
    CONVERTERS[converter.name] = converter
    return converter


def import_converters() -> None:
    """Fills ``CONVERTERS``: imports every ``zoo/<task>/<architecture>/convert.py``."""
    for path in sorted(registry.ZOO.glob("*/*/convert.py")):
        folder = ".".join(path.parent.relative_to(registry.ZOO).parts)
        importlib.import_module(f".{folder}.convert", __package__)


def detect_converter(keys: Iterable[str], config: Config = None) -> Converter:
    """The one converter that recognises these source keys.

    Raises ConvertError if none does, or if several do (both list the names to choose from).
    """
    import_converters()
    names = frozenset(keys)
    found = [c for c in CONVERTERS.values() if c.detect(names, config)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(CONVERTERS)) or "none registered"
    if not found:
        kind = (config or {}).get("model_type")
        raise ConvertError(
            "no converter recognises this checkpoint"
            + (f", of model_type {kind!r}" if kind else "")
            + f" (keys like {listing(sorted(names), limit=3)}); converters: {known}"
        )
    clash = ", ".join(c.name for c in found)
    raise ConvertError(f"several converters recognise this checkpoint: {clash}; name one of them")


def converter_for(model: str) -> str | None:
    """The name of the converter that alone makes this model, None if the files tell."""
    import_converters()
    found = [c.name for c in CONVERTERS.values() if c.models and fnmatch(model, c.models)]
    return found[0] if found else None


def read_checkpoint(
    path: str | Path,
) -> tuple[Mapping[str, np.ndarray], Json | None]:
    """A checkpoint file or folder -> (key -> array, read when asked for; parsed config.json or
    None).

    Of an exported graph (``zoo/graphs.py``) the second is what the graph tells of itself. A folder
    holds ``model.safetensors``, or shards with ``model.safetensors.index.json``, or a
    single other safetensors file. Pickle formats are refused. Raises WeightsError.
    """
    path = Path(path)
    if path.is_file() and (graph := read_graph(path)):
        return graph
    path = weights_in(path) if path.is_dir() else whole(path)
    parts = parts_of(path) if path.name.endswith(".json") else [path.name]
    config = path.parent / "config.json"
    tensors = Tensors(path.parent / part for part in parts)
    return tensors, read_json(config) if config.is_file() else None


def convert_checkpoint(
    path: str | Path, converter: str | None = None, *, template: Callable[[Plan], Any] | None = None
) -> tuple[Plan, Params]:
    """Reads, recognises and converts one checkpoint: (plan, variables ``{"params": tree}``).

    converter: a name from ``CONVERTERS``; None recognises it by its keys
    template:  plan -> variables to check against; by default the shapes of
               ``create_model(plan.model, **plan.overrides)``
    """
    if converter is not None:
        _one(converter)
    tensors, config = read_checkpoint(path)
    plan = _plan(tensors, config, converter)
    tensors = dict(tensors)
    expected = shapes_of(plan.model, **plan.overrides) if template is None else template(plan)
    ready = plan.prepare(tensors) if plan.prepare else tensors
    return plan, convert(ready, plan.rules, ignore=plan.ignore, template=expected)


def plan_checkpoint(path: str | Path, converter: str | None = None) -> Plan:
    """What :func:`convert_checkpoint` would make of a checkpoint, by its names and shapes alone.

    Raises ConvertError where no converter recognises it.
    """
    return _plan(*read_checkpoint(path), converter)


def _one(name: str) -> Converter:
    import_converters()
    if name not in CONVERTERS:
        raise ConvertError(
            f"unknown converter {name!r}; converters: {', '.join(sorted(CONVERTERS))}"
        )
    return CONVERTERS[name]


def _plan(tensors: Mapping[str, np.ndarray], config: Any, converter: str | None) -> Plan:
    if converter is None:
        return detect_converter(tensors, config).plan(tensors, config)
    try:
        return _one(converter).plan(tensors, config)
    except ConvertError as error:
        try:
            other = detect_converter(tensors, config).plan(tensors, config)
        except ConvertError:
            raise error from None
        raise ConvertError(f"{error}; it looks like {describe(other)}") from None


def describe(plan: Plan) -> str:
    """The model of a plan in a few words: its name, and in what it differs from that."""
    changed = [f"{k}={v!r}" for k, v in plan.overrides.items() if not isinstance(v, Mapping)]
    return plan.model + (f" with {listing(changed, limit=8)}" if changed else "")
