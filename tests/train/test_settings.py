"""Configs and the settings that change them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import jax.numpy as jnp
import pytest

from streamzoo.train import datasets, settings
from streamzoo.train.loop import LoopConfig
from streamzoo.train.optim import OptimConfig, make_optimiser
from streamzoo.train.recipe import Recipe
from streamzoo.train.settings import SettingError, override
from streamzoo.train.tasks import DistilConfig
from streamzoo.zoo import ranges

TOY = Path(__file__).with_name("toy.py")


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    steps: int = 10


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = "a"
    flag: bool = False
    size: tuple[int, int] = (1, 2)
    words: tuple[str, ...] = ()
    seed: int | None = None
    kind: Literal["x", "y"] = "x"
    inner: Inner = Inner()
    odd: object = None

    def __post_init__(self):
        if self.name == "bad":
            raise ValueError("bad is no name")


@pytest.mark.parametrize(
    "setting, name, value",
    [
        ("name=b=c", "name", "b=c"),
        ("name='7'", "name", "7"),
        ("flag=true", "flag", True),
        ("flag=0", "flag", False),
        ("size=3,4", "size", (3, 4)),
        ("size=(3, 4)", "size", (3, 4)),
        ("words=a,b", "words", ("a", "b")),
        ("words=", "words", ()),
        ("seed=5", "seed", 5),
        ("seed=none", "seed", None),
        ("kind=y", "kind", "y"),
        ("inner.rate=1e-3", "inner", Inner(rate=1e-3)),
        ("inner.rate=2", "inner", Inner(rate=2.0)),
        ("inner.steps=1e4", "inner", Inner(steps=10_000)),
    ],
)
def test_values_take_the_type_of_their_field(setting, name, value):
    changed = override(Outer(), [setting])
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(value)
    assert dataclasses.replace(changed, **{name: getattr(Outer(), name)}) == Outer()


@pytest.mark.parametrize(
    "setting, text",
    [
        ("inner.raet=1", "inner.raet: Inner has no 'raet'; did you mean rate? (there are: rate, "),
        ("nmae=1", "did you mean name"),
        ("zzz=1", "there are: flag, inner, kind, name, odd, seed, size, words"),
        ("inner.steps=1.5", "inner.steps wants a whole number, not '1.5'"),
        ("inner.steps=nan", "a whole number"),
        ("inner.rate=fast", "inner.rate wants a number, not 'fast'"),
        ("inner.rate=inf", "a number"),
        ("flag=maybe", "true or false"),
        ("size=1", "2 values"),
        ("size=1,a", "a whole number in each place"),
        ("seed=x", "a whole number or none"),
        ("kind=z", "one of x, y"),
        ("inner=3", "inner is a group; set one of inner.rate, inner.steps"),
        ("name.x=3", "below str"),
        ("name=bad", "name=bad: bad is no name"),
        ("name", "name=value"),
        ("odd=1", "only the config file"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(setting, text):
    with pytest.raises(SettingError) as error:
        override(Outer(), [setting])
    assert text in str(error.value) and "\n" not in str(error.value)


def test_a_config_is_a_file_or_the_name_of_a_shipped_one(tmp_path):
    config = settings.load_config(TOY)
    assert config.loop.steps == 24
    with pytest.raises(SettingError, match="no config at .*nowhere"):
        settings.load_config(tmp_path / "nowhere.py")
    with pytest.raises(SettingError, match="no config at"):
        settings.load_config("nothing_like_this")
    for name, text in (("empty", ""), ("klass", "class CONFIG: pass")):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        with pytest.raises(SettingError, match="defines no CONFIG"):
            settings.load_config(path)
    path = tmp_path / "broken.py"
    path.write_text("import nothing_like_this")
    with pytest.raises(SettingError, match="ModuleNotFoundError"):
        settings.load_config(path)


def test_every_shipped_config_loads_and_says_what_it_is():
    for name, line in settings.shipped().items():
        config = settings.load_config(name)
        assert line and settings.load_config(f"configs/{name}.py") == config
        text = settings.describe(config)
        assert "loop.optim.learning_rate=" in text
        assert override(config, ["loop.steps=7"]).loop.steps == 7


def test_description_and_json_hold_every_setting():
    config = Outer(size=(3, 4), inner=Inner(rate=0.1))
    text = settings.describe(config)
    assert "size=3,4" in text.split("\n") and "inner.rate=0.1" in text.split("\n")
    again = override(Outer(), [s for s in text.split("\n") if not s.startswith("odd")])
    assert again == config
    saved = settings.to_json(config)
    assert json.loads(saved)["inner.rate"] == 0.1
    assert settings.differences(saved, config) == []
    other = override(config, ["inner.rate=0.2", "name=b"])
    assert settings.differences(saved, other) == ["inner.rate: 0.1 -> 0.2", "name: a -> b"]
    assert settings.differences(saved, other, ["name"]) == ["inner.rate: 0.1 -> 0.2"]


def numbers(kind, prefix=""):
    """(class, field, type with its range) of every number of a config class, tuples' too."""
    for field in dataclasses.fields(kind):
        hint = ranges.hints(kind)[field.name]
        if dataclasses.is_dataclass(hint):
            yield from numbers(hint)
        elif numeric(hint):
            yield kind, field.name, hint


def numeric(hint):
    inner = [numeric(one) for one in get_args(hint) if isinstance(one, type) or get_origin(one)]
    return hint in (int, float) or any(inner)


def ranged(hint):
    """Whether every number in a type has a range."""
    if get_origin(hint) is Annotated:
        return any(isinstance(one, ranges.Range) for one in get_args(hint))
    inner = [one for one in get_args(hint) if one is not ...]
    return hint not in (int, float) and all(ranged(one) for one in inner)


def config_classes():
    """Every class of settings: those of training, of the server, of the cluster and of models."""
    found, todo = set(), [ranges.Checked]
    zoo = importlib.import_module("streamzoo.zoo")
    for module in pkgutil.walk_packages(zoo.__path__, "streamzoo.zoo."):
        importlib.import_module(module.name)  # all of them, not those that other tests imported
    for room in ("train", "streaming.serve.limits", "streaming.engine.trial"):
        package = importlib.import_module(f"streamzoo.{room}")
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            if module.name not in ("__main__",):
                importlib.import_module(f"streamzoo.{room}.{module.name}")
    for kind in datasets.DATA_SETS:
        datasets.data_set(kind)
    while todo:
        todo += [k for k in todo.pop().__subclasses__() if not found.add(k)]
    ours = {k for k in found if k.__module__.startswith("streamzoo.")}
    return {k for k in ours if dataclasses.is_dataclass(k)}  # without the bases of them


def test_every_number_of_every_config_has_a_range():
    classes = config_classes()
    assert {LoopConfig, OptimConfig, DistilConfig, Recipe} <= classes and len(classes) > 15
    for name in settings.shipped():  # whatever a recipe is made of
        for kind in parts_of(settings.load_config(name)):
            assert issubclass(kind, ranges.Checked), kind
    bare = {(k.__name__, f) for kind in classes for k, f, hint in numbers(kind) if not ranged(hint)}
    assert not bare


def parts_of(config):
    yield type(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from parts_of(value)


OUTSIDE = [
    (key, value, name)
    for name in ("smoke", "live_hrm", "davis_tracker", "encoder_student")
    for key, value in settings._lines(settings.load_config(name))
    if isinstance(value, (int, float)) and not isinstance(value, bool)
]


@pytest.mark.parametrize("key, value, name", OUTSIDE, ids=lambda one: str(one))
def test_a_number_far_outside_is_one_line_that_says_the_range(key, value, name):
    """Below any range that there is: not one is taken in silence."""
    config = settings.load_config(name)
    with pytest.raises(SettingError) as error:
        override(config, [f"{key}=-99"])
    text = str(error.value)
    assert text.startswith(f"{key}=-99: ") and "\n" not in text
    assert re.search(r"at least|above|\d to \d", text), text
    assert override(config, [f"{key}={value!r}"]) == config


def test_off_in_the_words_of_other_trainers_does_not_turn_the_gradient_round():
    with pytest.raises(SettingError, match="clip is at least 0 .0: no clipping"):
        override(OptimConfig(), ["clip=-1"])
    config = OptimConfig(clip=-1.0, learning_rate=1.0, warmup=1)
    assert config.clip == 0
    params = {"w": jnp.ones(3)}
    optimiser = make_optimiser(config, 10, params)
    state = optimiser.init(params)
    change: Any = None
    for _ in range(2):
        change, state = optimiser.update({"w": jnp.full(3, 0.5)}, state, params)
    assert float(change["w"].max()) < 0


def test_old_words_are_taken_and_said(capsys):
    """In settings, in configs written for an earlier version, and in its checkpoints."""
    config = settings.load_config("smoke")
    old = ["loop.lanes=2", "loop.optim.rate=0.5", "loop.optim.decay=0.25"]
    new = ["loop.batch=2", "loop.optim.learning_rate=0.5", "loop.optim.weight_decay=0.25"]
    changed = override(config, old)
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        "note: loop.lanes is called loop.batch now",
        "note: loop.optim.rate is called loop.optim.learning_rate now",
        "note: loop.optim.decay is called loop.optim.weight_decay now",
    ]
    assert changed == override(config, new) and not capsys.readouterr().err
    with pytest.raises(SettingError, match="learning_rate is above 0"):
        override(config, ["loop.optim.rate=-1"])
    words: dict[str, Any] = dict(rate=0.5, decay=0.25)
    with pytest.warns(DeprecationWarning, match="is called batch now"):
        loop = LoopConfig(**dict[str, Any](lanes=3), optim=OptimConfig(**words))
    assert (loop.batch, loop.optim.learning_rate, loop.optim.weight_decay) == (3, 0.5, 0.25)
    with pytest.warns(DeprecationWarning):
        assert dataclasses.replace(loop, lanes=5).batch == 5
    with pytest.warns(DeprecationWarning, match="is called threshold now"):
        assert DistilConfig(**dict[str, Any](sure=0.7)).threshold == 0.7
    saved = settings.to_json(config)
    for then, now in (("lanes", "batch"), ("optim.rate", "optim.learning_rate")):
        saved = saved.replace(f"loop.{now}", f"loop.{then}")
    assert "loop.lanes" in saved and not settings.differences(saved, config)
