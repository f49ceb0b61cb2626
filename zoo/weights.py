"""Weights on disk and where they are found.

A file is safetensors with flat '/'-joined names (the path in the linen variables without the
leading "params/") and, in its header, what made it: ``format`` "streamzoo", ``format_version``,
``model`` (registered name), ``config`` (JSON of the config fields that differ or of all) and
whatever the caller adds. Pickle is never read.

A name is looked for in this order: a path that exists, ``zoo/bundled``, ``$STREAMZOO_HOME``
(default ``~/.cache/streamzoo``), the Hugging Face Hub. What a hub repository holds in its own
project's layout is converted on the way (``zoo/convert.py``); which model it is, its config.json
and its keys tell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import compress, hub, registry
from .hub import WeightsError

if TYPE_CHECKING:
    from flax import linen as nn

FORMAT_VERSION = "1"
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar"}


# --- trees -----------------------------------------------------------------------------------


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Comma-separated names; beyond ``limit`` the rest is counted."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def flatten(variables: Any) -> dict[str, Any]:
    """Linen variables ``{"params": tree}`` -> {"a/b/kernel": leaf}.

    Raises WeightsError for other collections and for names that hold a '/'.
    """
    if not isinstance(variables, Mapping) or set(variables) != {"params"}:
        got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise WeightsError(f"expected the variables dict {{'params': tree}}, got {got}")
    flat: dict[str, Any] = {}

    def walk(tree: Mapping, prefix: str) -> None:
        for key, value in tree.items():
            if not isinstance(key, str) or "/" in key or not key:
                raise WeightsError(f"parameter name {key!r} under {prefix!r}: no '/' allowed")
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}/")
            else:
                flat[prefix + key] = value

    walk(variables["params"], "")
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise WeightsError(f"{name!r}: {part!r} is an array and a folder at once")
        if leaf in node:
            raise WeightsError(f"{name!r} is an array and a folder at once")
        node[leaf] = value
    return {"params": tree}


def is_float(dtype: Any) -> bool:
    """True for every floating type, bfloat16 and float8 included."""
    import jax.numpy as jnp

    return bool(jnp.issubdtype(dtype, jnp.floating))


def as_float(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Floating arrays cast to ``dtype``; others untouched."""
    return array.astype(dtype, copy=False) if is_float(array.dtype) else array


def check_tree(
    flat: Mapping[str, Any],
    template: Any,
    where: str,
    *,
    hint: str = "",
    error: type[WeightsError] = WeightsError,
) -> None:
    """Compares names, shapes and kinds with the variables ``template``, all at once.

    Raises ``error`` listing every missing, unexpected and mis-shaped name.
    """
    wanted = flatten(template)
    shaped = []
    for name in wanted.keys() & flat.keys():
        new, old = flat[name], wanted[name]
        if tuple(new.shape) != tuple(old.shape):
            shaped.append(f"{name} {list(new.shape)} instead of {list(old.shape)}")
        elif is_float(new.dtype) != is_float(old.dtype):
            shaped.append(f"{name} {new.dtype} instead of {old.dtype}")
    groups = {
        "missing": sorted(wanted.keys() - flat.keys(), key=registry.natural),
        "unexpected": sorted(flat.keys() - wanted.keys(), key=registry.natural),
        "mis-shaped": sorted(shaped, key=registry.natural),
    }
    found = [f"{len(v)} {kind}: {listing(v)}" for kind, v in groups.items() if v]
    if found:
        raise error(f"{where} does not fit this model; " + "; ".join(found) + hint)


# --- files -----------------------------------------------------------------------------------


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Any safetensors file -> (name -> array, header metadata).

    Raises WeightsError for a pickle, a missing file, a truncated or corrupt one, and a number
    format that numpy lacks.
    """
    import ml_dtypes  # noqa: F401  teaches numpy the name bfloat16
    import safetensors

    path = Path(path)
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path}: {path.suffix} files are pickles, which run code when read, and are refused;"
            " where you trust the file, write it as safetensors"
            " (safetensors.torch.save_file(torch.load(path, weights_only=True), 'x.safetensors'))"
            " and run `streamzoo convert x.safetensors`"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except (AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: a number format that cannot be read ({error})") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a complete safetensors file ({error}); delete and download again"
        ) from None


def save(
    path: str | Path,
    params: Any,
    metadata: Mapping[str, Any] | None = None,
    *,
    dtype: Any = None,
) -> str:
    """Writes variables ``{"params": tree}``; returns the sha256 of the file.

    metadata: ``model`` (registered name), ``config`` (dataclass or mapping of config fields)
              and more; whatever is not text is stored as JSON. ``parts`` {"stem": NAME} says that
              the parameters under stem/, left out of this file, are those of NAME
    dtype:    floating arrays are stored as this, e.g. np.float16; one whose values would
              overflow keeps its own type
    The file appears whole or not at all. Raises WeightsError.
    """
    from safetensors.numpy import save as serialise

    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights are written as .safetensors")
    header = {"format": "streamzoo", "format_version": FORMAT_VERSION}
    for key, value in (metadata or {}).items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        try:
            header[key] = value if isinstance(value, str) else json.dumps(value, default=_plain)
        except TypeError as error:
            raise WeightsError(f"{path}: metadata {key!r} is not JSON: {error}") from None
    flat = flatten(params)
    if not flat:
        raise WeightsError(f"{path}: there are no parameters to save")
    data = serialise({name: _stored(leaf, dtype) for name, leaf in flat.items()}, metadata=header)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> str:
    return np.dtype(value).name  # jnp.float32 and the like; a TypeError for anything else


def _stored(leaf: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(leaf, order="C")  # safetensors writes the buffer as it lies
    if dtype is None or not is_float(array.dtype):
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    return cast if np.array_equal(np.isfinite(cast), np.isfinite(array)) else array


def load_file(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """One of our files -> (variables of numpy arrays as stored, header metadata).

    Raises WeightsError for a pickle, a missing, corrupt or too new file.
    """
    flat, metadata = read_tensors(path)
    flat = compress.unpack(flat)  # 8-bit kernels as floats
    version = metadata.get("format_version", FORMAT_VERSION)
    if metadata.get("format") == "streamzoo" and version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: format version {version}, this streamzoo reads {FORMAT_VERSION}; upgrade it"
        )
    return nest(flat), metadata


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home() -> Path:
    """``$STREAMZOO_HOME``, default ``~/.cache/streamzoo``."""
    return Path(os.environ.get("STREAMZOO_HOME") or "~/.cache/streamzoo").expanduser()


def find_weights(name_or_path: str | Path) -> Path:
    """The weights file of a path, a registered name or "hf:owner/repo[@rev][:file]".

    A card's sha256 is checked. Raises WeightsError naming every place that was looked at, and
    UnknownModelError for what is neither a path nor a name.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if text.startswith("hf:"):
        try:
            return hub.download_model(hub.parse(text))
        except hub.NotFoundError as error:
            raise WeightsError(f"no weights; looked for {error}") from None
    if path.suffix.lower() in {".safetensors", *_PICKLES}:
        raise WeightsError(f"{path}: no such weights file")
    card = registry.model_card(text)
    source = hub.parse(card.source, card.weights) if card.source.startswith("hf:") else None
    file = card.weights or (source.file if source else None)
    if file is None:
        tags = registry.list_models(f"{card.arch}/*", pretrained=True)
        raise WeightsError(
            f"{text!r} is an architecture without weights; "
            + (f"with weights: {listing(tags)}; " if tags else "")
            + "load a file by its path (`streamzoo convert` makes one of another project's"
            " checkpoint), or take random weights from init_params(name)"
        )
    tried = []
    for label, folder in (("bundled", registry.BUNDLED), ("STREAMZOO_HOME", home())):
        if (folder / file).is_file():
            return _verified(folder / file, card)
        tried.append(f"{label} {folder / file} (no such file)")
    if source is None:
        tried.append("Hugging Face Hub (the card names no repository)")
    else:
        try:
            return _verified(hub.download_model(source), card)
        except hub.NotFoundError as error:
            tried.append(str(error))
    raise WeightsError(f"no weights for {text!r}; looked for " + "; ".join(tried))


def _verified(path: Path, card: registry.Card) -> Path:
    if card.sha256 and (actual := sha256(path)) != card.sha256:
        # in the hub's cache the path is a link: deleting the link alone would bring it back
        raise WeightsError(
            f"{path.resolve()}: sha256 is {actual}, the card of {card.name!r} says {card.sha256};"
            " delete and download again"
        )
    return path


# --- models ----------------------------------------------------------------------------------


def example_inputs(name: str, model: nn.Module | None = None) -> tuple:
    """Arguments of ``model.init`` after the key, one frame or one clip of zeros."""
    import jax.numpy as jnp

    entry = registry.find(name)
    module: Any = entry.build(entry.config) if model is None else model
    if entry.inputs is not None:
        return entry.inputs(module, entry.card)
    config = getattr(module, "config", entry.config)  # overrides included
    h, w = getattr(config, "image_size", entry.card.input_size)
    if entry.card.streaming:
        return module.init_carry(1), jnp.zeros((1, 1, h, w, 3))
    return (jnp.zeros((1, getattr(config, "frames", 1), h, w, 3)),)


def _shapes(name: str, model: nn.Module) -> dict[str, Any]:
    import jax

    # inside eval_shape, so that not even a large carry is allocated
    init = lambda key: model.init(key, *example_inputs(name, model))  # noqa: E731
    return {"params": jax.eval_shape(init, jax.random.key(0))["params"]}


def _same_family(name: str, model: nn.Module, where: Any, what: str = "") -> None:
    """Raises WeightsError where ``model`` is not of the family of the registered ``name``."""
    mine, theirs = getattr(model, "config", None), registry.find(name).config
    if mine is not None and type(mine) is not type(theirs):
        family = type(theirs).__name__.removesuffix("Config")
        raise WeightsError(
            f"{where}: weights of {what or name}: a model of kind {family}, not"
            f" {type(model).__name__}; load(...) makes the model that they fit"
        )


def shapes_of(name: str, **overrides: Any) -> dict[str, Any]:
    """Variables of ``jax.ShapeDtypeStruct`` of ``create_model(name, **overrides)``; computes
    nothing."""
    return _shapes(name, registry.create_model(name, **overrides))


def init_params(name: str, *, seed: int = 0, **overrides: Any) -> tuple[nn.Module, dict[str, Any]]:
    """(module, variables) with random weights."""
    import jax

    model = registry.create_model(name, **overrides)
    init = jax.jit(lambda key: model.init(key, *example_inputs(name, model)))
    return model, {"params": init(jax.random.key(seed))["params"]}


def load_weights(
    name_or_path: str | Path, model: nn.Module | None = None, *, template: Any = None
) -> dict[str, Any]:
    """Variables ``{"params": tree}`` of jax arrays, checked and in the dtypes of the model.

    name_or_path: as in :func:`find_weights`; a hub repository may hold its own project's layout
    model:        module to check against; by default the one the name or the file's header says
    template:     variables of arrays or ShapeDtypeStruct instead of a model
    A file that names no model, without model and template, is returned unchecked, floating
    arrays as float32. Raises WeightsError listing all names that do not fit.
    """
    import jax

    path = find_weights(name_or_path)
    if _is_foreign(name_or_path, path):
        return _converted(name_or_path, path, model, template)[1]
    variables, metadata = load_file(path)
    flat = flatten(variables)
    if template is None:
        name = _named(name_or_path, metadata)
        if model is not None and name is None:
            hint = _looks_like(path, metadata)
            raise WeightsError(f"{path}: its header names no model; pass template= instead{hint}")
        if name is not None:
            if model is None:
                model = _create(name, metadata, path)
            _same_family(name, model, path)
            template = _shapes(name, model)
    if template is None:
        return jax.device_put(nest({k: as_float(v, np.float32) for k, v in flat.items()}))
    flat |= _parts(metadata, template)
    check_tree(flat, template, str(path), hint=_looks_like(path, metadata))
    dtypes = {name: leaf.dtype for name, leaf in flatten(template).items()}
    return jax.device_put(nest({k: v.astype(dtypes[k], copy=False) for k, v in flat.items()}))


def _looks_like(path: Path, metadata: Mapping[str, str]) -> str:
    """What a file that does not fit may be, as the end of a sentence."""
    if metadata.get("format") == "streamzoo":
        return f"; the file is of {metadata['model']!r}" if "model" in metadata else ""
    from .convert import ConvertError, describe, guess

    try:
        plan = guess(path)
    except ConvertError:
        return "; another project's checkpoint is read by `streamzoo convert`"
    return f"; it looks like {describe(plan)}: `streamzoo convert` reads it"


def _source(name_or_path: str | Path) -> hub.HubFile | None:
    """Where on the hub a name or an address leads."""
    text = os.fspath(name_or_path)
    if not _is_name(name_or_path):
        return hub.parse(text) if text.startswith("hf:") else None
    card = registry.model_card(text)
    return hub.parse(card.source, card.weights) if card.source.startswith("hf:") else None


def _is_foreign(name_or_path: str | Path, path: Path) -> bool:
    """True for a file of the hub that another project wrote."""
    if _source(name_or_path) is None:
        return False
    return path.name == hub.INDEX or read_metadata(path).get("format") != "streamzoo"


def _converted(
    name_or_path: str | Path, path: Path, model: nn.Module | None = None, template: Any = None
) -> tuple[Any, dict[str, Any]]:
    """(plan, variables) of another project's checkpoint on the hub, checked against the model or
    template, or against the model of the name."""
    import jax

    from .convert import ConvertError, convert_checkpoint, converter_for, describe

    source = _source(name_or_path)
    if source is not None:
        hub.download_config(source)
    chosen = converter_for(os.fspath(name_or_path)) if _is_name(name_or_path) else None
    file = path.parent if path.name == hub.INDEX else path
    try:
        plan, variables = convert_checkpoint(file, chosen)
    except ConvertError as error:
        raise ConvertError(f"{source}: {error}") from None
    if template is None and model is not None:
        _same_family(plan.model, model, source, describe(plan))
        template = _shapes(plan.model, model)
    if template is None and _is_name(name_or_path):
        name = os.fspath(name_or_path)
        template = _shapes(name, registry.create_model(name))
    if template is None:
        return plan, jax.device_put(variables)
    flat = flatten(variables)
    check_tree(flat, template, str(source), hint=f"; it looks like {describe(plan)}")
    dtypes = {name: leaf.dtype for name, leaf in flatten(template).items()}
    return plan, jax.device_put(nest({k: v.astype(dtypes[k], copy=False) for k, v in flat.items()}))


def _parts(metadata: Mapping[str, str], template: Any) -> dict[str, Any]:
    """The parameters that a file shares with other names, as ``parts`` in its header says."""
    found: dict[str, Any] = {}
    wanted = flatten(template)
    for prefix, name in json.loads(metadata.get("parts", "{}")).items():
        for key, value in flatten(load_file(find_weights(name))[0]).items():
            if f"{prefix}/{key}" in wanted:
                found[f"{prefix}/{key}"] = value
    return found


def load(name_or_path: str | Path, **overrides: Any) -> tuple[nn.Module, dict[str, Any]]:
    """(module, variables) of a name with weights, of a file whose header names its model, or of a
    hub repository, "hf:owner/repo", that holds one of the checkpoints we can convert.

    overrides: config fields to replace; ones that change shapes make the weights misfit
    Raises UnknownModelError, UnknownOverrideError and WeightsError.
    """
    path = find_weights(name_or_path)
    if _is_foreign(name_or_path, path):
        plan, variables = _converted(name_or_path, path)
        model = registry.create_model(plan.model, **{**plan.overrides, **overrides})
        if overrides:
            from .convert import describe

            hint = f"; it looks like {describe(plan)}"
            check_tree(flatten(variables), _shapes(plan.model, model), str(path), hint=hint)
        return model, variables
    metadata = read_metadata(path)
    name = _named(name_or_path, metadata)
    if name is None:
        raise WeightsError(
            f"{path}: its header names no model; use load_weights(path, template=...)"
            + _looks_like(path, metadata)
        )
    model = _create(name, {} if _is_name(name_or_path) else metadata, path, overrides)
    return model, load_weights(path, template=_shapes(name, model))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header metadata alone. Raises as :func:`read_tensors`."""
    import safetensors

    if Path(path).suffix.lower() in _PICKLES:
        read_tensors(path)  # raises the refusal
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a complete safetensors file ({error}); delete and download again"
        ) from None


def _is_name(name_or_path: str | Path) -> bool:
    text = os.fspath(name_or_path)
    return not text.startswith("hf:") and not Path(text).expanduser().is_file()


def _named(name_or_path: str | Path, metadata: Mapping[str, str]) -> str | None:
    return os.fspath(name_or_path) if _is_name(name_or_path) else metadata.get("model")


def _create(name: str, metadata: Mapping[str, str], path: Path, overrides: Any = None) -> nn.Module:
    try:
        stored = json.loads(metadata.get("config", "{}"))
    except ValueError as error:
        raise WeightsError(f"{path}: the config in its header is not JSON: {error}") from None
    return registry.create_model(name, **(stored | (overrides or {})))
