"""Configs: frozen dataclasses in Python files, changed by ``a.b=c`` on the command line."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from ..zoo import ranges
from ..zoo.ranges import Dataclass

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class SettingError(ValueError):
    """A config that is not there, or a setting that does not fit it."""


class Kinds:
    """A group of settings of which there are several kinds, a class each: ``group.kind=WORD``
    chooses. Its ``kind`` is shown and kept like a field."""

    kind: ClassVar[str] = ""
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The words that ``kind`` may be."""
        raise NotImplementedError

    def as_kind(self, kind: str) -> Any:
        """The group of another kind with what both have."""
        raise NotImplementedError

    @classmethod
    def left_out(cls, field: str) -> bool:
        """True for a word that an earlier version took for every kind and this one does not
        read."""
        del field
        return False


def shipped() -> dict[str, str]:
    """Name -> first line of the docstring, of the files in ``configs`` that define CONFIG."""
    found = {}
    for path in sorted(CONFIGS.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            target.id
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.AnnAssign))
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if "CONFIG" in names:
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n")[0]
    return found


def load_config(path: str | Path) -> Any:
    """``CONFIG`` of a config file: a path, or a name that :func:`shipped` lists.

    Raises SettingError if there is no such file, it cannot be imported, or it has no CONFIG.
    """
    path = Path(path)
    if path.suffix != ".py" and path.name == str(path):
        path = CONFIGS / f"{path}.py"
    elif not path.is_file() and path.parent.name == "configs":
        path = CONFIGS / path.name  # an installed package, run from anywhere
    if not path.is_file():
        raise SettingError(f"no config at {path}{_near(path.stem, shipped())}")
    if path.resolve().parent == CONFIGS:
        module = importlib.import_module(f"..configs.{path.stem}", __package__)
    else:
        module = _load_file(path)
    config = getattr(module, "CONFIG", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise SettingError(f"{path} defines no CONFIG, a frozen dataclass with build() and loop")
    return config


def _load_file(path: Path) -> types.ModuleType:
    name = f"streamzoo_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SettingError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def override(config: Dataclass, settings: Iterable[str]) -> Any:
    """``config`` with "a.b=c" settings applied, each value read as the type of its field.

    Kinds are chosen first, so that their own words are known wherever they stand.

    Raises SettingError for a key that does not exist (with the nearest ones) or a wrong value.
    """
    chooses = lambda setting: setting.partition("=")[0].strip().endswith(".kind")
    for setting in sorted(settings, key=lambda setting: not chooses(setting)):
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise SettingError(f"{setting!r} is not of the form name=value")
        config = _set(config, key.strip().split("."), text.strip(), key.strip())
    return config


def _set(config: Dataclass, path: list[str], text: str, key: str) -> Any:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise SettingError(f"{key}: {path[0]!r} is below {type(config).__name__}, not a group")
    fields = [f.name for f in dataclasses.fields(config) if f.init]
    name = path[0]
    if new := ranges.old_words(type(config)).get(name):
        prefix = key.rpartition(".")[0]
        print(f"note: {key} is called {f'{prefix}.' if prefix else ''}{new} now", file=sys.stderr)
        name = new
    if isinstance(config, Kinds) and len(path) == 1:
        if name == "kind":
            if text not in config.kinds():
                raise SettingError(f"{key} {text!r}: choose from {', '.join(config.kinds())}")
            return config if text == config.kind else config.as_kind(text)
        if config.left_out(name):
            what = f"{config.kind} data does not read it"
            print(f"note: {key} is left out, {what}", file=sys.stderr)
            return config
    if name not in fields:
        raise SettingError(f"{key}: {type(config).__name__} has no {name!r}{_near(name, fields)}")
    old = getattr(config, name)
    if len(path) > 1:
        value = _set(old, path[1:], text, key)
    elif dataclasses.is_dataclass(old):
        inner = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(old) if f.init)
        raise SettingError(f"{key} is a group; set one of {inner}")
    else:
        kind = _hints(type(config)).get(name, Any)
        try:
            value = read(text, type(old) if kind is Any else kind)
        except ValueError as error:
            raise SettingError(f"{key} wants {error}, not {text!r}") from None
        if found := ranges.problem(value, ranges.hints(type(config)).get(name, Any)):
            raise SettingError(f"{key}={text}: {name} is {found}")
    try:
        return dataclasses.replace(config, **{name: value})
    except ValueError as error:  # what the dataclass itself refuses
        raise SettingError(f"{key}={text}: {error}") from None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError:
        return {}


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{hint} (there are: {', '.join(known) or 'none'})"


def read(text: str, kind: Any) -> Any:
    """A value of type ``kind`` from text. Raises ValueError that says what is wanted."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in inner and text.lower() in ("none", "null", ""):
            return None
        wanted = []
        for one in inner:
            if one is not type(None):
                try:
                    return read(text, one)
                except ValueError as error:
                    wanted.append(str(error))
        raise ValueError(" or ".join(wanted + ["none"] * (type(None) in inner)))
    if origin is typing.Literal:
        for choice in inner:
            if text == str(choice):
                return choice
        raise ValueError("one of " + ", ".join(map(str, inner)))
    if kind is tuple or origin is tuple:
        return _read_tuple(text, inner)
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise ValueError("true or false")
        return words[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            pass
        number = _number(text, "a whole number")
        if number != int(number):
            raise ValueError("a whole number")
        return int(number)  # 1e4
    if kind is float:
        return _number(text, "a number")
    if kind is str:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    raise ValueError(f"a {getattr(kind, '__name__', kind)}, which only the config file can give")


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
        int(number)  # not for infinity
        return number
    except (ValueError, OverflowError):
        raise ValueError(what) from None


def _cells(text: str) -> list[str]:
    """What stands between the commas of a tuple, with or without its own brackets; the commas of
    tuples inside it are theirs. Raises ValueError: brackets that do not match."""
    depths, depth = [], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        depths.append(depth)
    if depth or min(depths, default=0) < 0:
        raise ValueError("brackets that match")
    if text[:1] in ("(", "[") and 0 not in depths[:-1]:
        return _cells(text[1:-1].strip())
    cells, last = [], 0
    for at in [k for k, letter in enumerate(text) if letter == "," and not depths[k]] + [len(text)]:
        cells.append(text[last:at].strip())
        last = at + 1
    return cells if cells[-1] else cells[:-1]  # a comma at the end, or nothing


def _read_tuple(text: str, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = _cells(text)
    if not inner:
        return tuple(part.strip("'\"") for part in parts)
    kinds = [inner[0]] * len(parts) if len(inner) == 2 and inner[1] is ... else list(inner)
    if len(kinds) != len(parts):
        raise ValueError(f"{len(kinds)} values with commas between them")
    try:
        return tuple(read(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except ValueError as error:
        raise ValueError(f"{error} in each place, with commas between them") from None


def _lines(config: Dataclass, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Kinds):
        yield f"{prefix}kind", config.kind
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _lines(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def describe(config: Dataclass) -> str:
    """A line per setting, as ``--set`` takes it."""

    def cell(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return "\n".join(f"{name}={cell(value)}" for name, value in _lines(config))


def to_json(config: Dataclass) -> str:
    """The settings as JSON with sorted keys; what JSON cannot hold is written as text."""
    return json.dumps(dict(_lines(config)), indent=1, sort_keys=True, default=str)


def differences(saved: str, config: Dataclass, ignore: Iterable[str] = ()) -> list[str]:
    """``name: then -> now`` of every setting in which a saved config differs from this one."""
    then, now = json.loads(saved), json.loads(to_json(config))
    then = {_newest(config, name): value for name, value in then.items()}
    then = {name: value for name, value in then.items() if not _left_out(config, name)}
    names = sorted((then.keys() | now.keys()) - set(ignore))
    return [
        f"{name}: {then.get(name)} -> {now.get(name)}"
        for name in names
        if then.get(name) != now.get(name)
    ]


def _newest(config: Dataclass | None, name: str) -> str:
    """The name that a setting of an earlier version has now."""
    head, _, rest = name.partition(".")
    head = ranges.old_words(type(config)).get(head, head)
    return f"{head}.{_newest(getattr(config, head, None), rest)}" if rest else head


def _left_out(config: Dataclass | None, name: str) -> bool:
    """True for a setting of an earlier version that a group's kind does not read."""
    *groups, field = name.split(".")
    for group in groups:
        config = getattr(config, group, None)
    return isinstance(config, Kinds) and config.left_out(field)


def digest(config: Dataclass) -> str:
    """Short hash of all settings."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]
