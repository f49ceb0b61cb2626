"""Configs and the settings that change them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest

from streamzoo.train import settings
from streamzoo.train.settings import SettingError, override

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
        assert "loop.optim.rate=" in text
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
