"""Names, cards and overrides, with a tiny module registered for the occasion."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from streamzoo.zoo import registry as reg
from streamzoo.zoo import weights as wt
from streamzoo.zoo.registry import Card, RegistryError, UnknownModelError, UnknownOverrideError


@dataclasses.dataclass(frozen=True)
class Part:
    kind: str
    options: tuple = ()


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    num_classes: int = 3
    image_size: tuple[int, int] = (4, 4)
    parts: tuple[Part, ...] = (Part("shift"),)


class Toy(nn.Module):
    """Running mean colour of a stream -> logits."""

    config: ToyConfig

    def setup(self):
        self.hidden = nn.Dense(self.config.width)
        self.head = nn.Dense(self.config.num_classes)

    def init_carry(self, batch):
        return jax.numpy.zeros((batch, 3))

    def __call__(self, carry, frames):
        colours = jax.numpy.cumsum(frames.mean((2, 3)), axis=1) + carry[:, None]
        return colours[:, -1], self.head(self.hidden(colours))


@pytest.fixture
def toys(monkeypatch):
    reg.import_names()  # into the real table, not into the one of this test
    monkeypatch.setattr(reg, "_ENTRIES", {})
    monkeypatch.setattr(reg, "_BUNDLED", {})
    for name in ("toy-s16", "toy-s8", "toy-b16"):
        reg.register(name, Toy, ToyConfig(), Card(name, input_size=(4, 4), carry_bytes=12))
    reg.register("still-s16", Toy, ToyConfig(), Card("still-s16", streaming=False))
    card = Card("toy-s16/cls5", weights="toy.safetensors", overrides={"num_classes": 5})
    reg.register("toy-s16/cls5", Toy, ToyConfig(), card)


def test_list_models(toys):
    everything = ["still-s16", "toy-b16", "toy-s8", "toy-s16", "toy-s16/cls5"]
    assert reg.list_models() == everything  # s8 before s16
    assert reg.list_models("*-s16*") == ["still-s16", "toy-s16", "toy-s16/cls5"]
    assert reg.list_models(streaming=False) == ["still-s16"]
    assert reg.list_models(streaming=True) == everything[1:]
    assert reg.list_models(pretrained=True) == ["toy-s16/cls5"]
    assert reg.list_models("toy*", pretrained=False) == ["toy-b16", "toy-s8", "toy-s16"]
    assert reg.list_models("nothing*") == []


def test_create_model_with_tag_and_overrides(toys):
    assert reg.create_model("toy-s16").config == ToyConfig()
    assert reg.create_model("toy-s16/cls5").config == ToyConfig(num_classes=5)
    model = reg.create_model("toy-s16/cls5", width=7, image_size=[8, 6])
    assert model.config == ToyConfig(7, 5, (8, 6))
    assert hash(model.config)  # lists from JSON would break this
    assert wt.shapes_of("toy-s16/cls5", width=7)["params"]["head"]["kernel"].shape == (7, 5)


def test_config_survives_json(toys):
    config = ToyConfig(parts=(Part("shift", (("fraction", 0.25),)), Part("none")))
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert reg.model_config("toy-s16", **stored) == config
    with pytest.raises(UnknownOverrideError, match="not a Part.*knd"):
        reg.create_model("toy-s16", parts=[{"knd": "shift"}])


def test_unknown_name_names_the_nearest(toys):
    with pytest.raises(UnknownModelError, match=r"'toi-s16'; did you mean toy-s16.*streamzoo list"):
        reg.create_model("toi-s16")
    with pytest.raises(UnknownModelError, match="did you mean toy-s16"):
        reg.model_card("toy-s16/never-heard-of-it")
    with pytest.raises(UnknownModelError) as caught:
        reg.create_model("zzzzzz")
    assert "did you mean" not in str(caught.value) and "list_models()" in str(caught.value)


def test_unknown_override_names_the_nearest_field(toys):
    with pytest.raises(UnknownOverrideError, match="no field 'num_clases'; did you mean num_class"):
        reg.create_model("toy-s16", num_clases=5)
    with pytest.raises(UnknownOverrideError, match="fields: width, num_classes, image_size, parts"):
        reg.create_model("toy-s16", zzz=5)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: reg.register("toy-s16", Toy, ToyConfig(), Card("toy-s16")), "registered already"),
        (lambda: reg.register("a-s16", Toy, ToyConfig(), Card("b-s16")), "card of 'b-s16'"),
        (lambda: reg.register("a-s16", Toy, {}, Card("a-s16")), "no dataclass"),
        (lambda: reg.register("a-s16", Toy, ToyConfig, Card("a-s16")), "no dataclass"),
        (lambda: Card("Toy S16"), "lower case"),
        (lambda: Card("toy-s16/a/b"), "lower case"),
        (lambda: Card("toy-s16", tag="x"), "arch or tag"),
        (lambda: Card("toy-s16", weights="x.safetensors"), "needs a tag"),
        (lambda: Card("toy-s16/a", sha256="ABC"), "64 lower-case hex"),
        (lambda: Card.from_json("{", "x.json"), "x.json is not JSON"),
        (lambda: Card.from_json("{}", "x.json"), "x.json: a card is"),
        (lambda: Card.from_json('{"name": "a-s16", "clases": []}', "x"), "unknown fields clases"),
    ],
)
def test_bad_registrations_and_cards(toys, make, says):
    with pytest.raises(RegistryError, match=says):
        make()


def test_config_must_be_frozen(toys):
    @dataclasses.dataclass
    class Loose:
        width: int = 1

    with pytest.raises(RegistryError, match="Loose is not frozen"):
        reg.register("a-s16", Toy, Loose(), Card("a-s16"))


def test_card_survives_json():
    card = Card(
        "toy-s16/two",
        classes=("a", "b"),
        input_size=(4, 6),
        frame_rate=12.5,
        sha256="0" * 64,
        weights="two.safetensors",
        overrides={"num_classes": 2, "image_size": (4, 6)},
    )
    back = Card.from_json(card.to_json())
    assert back == card
    assert back.overrides == {"num_classes": 2, "image_size": (4, 6)}
    assert (back.arch, back.tag, back.pretrained) == ("toy-s16", "two", True)
    assert hash(back) == hash(card)


def test_bundled_cards_are_discovered(toys, tmp_path):
    card = Card("toy-s16/json", weights="j.safetensors", overrides={"num_classes": 2})
    (tmp_path / "j.json").write_text(card.to_json())
    assert reg.discover(tmp_path) == ["toy-s16/json"]
    assert "toy-s16/json" in reg.list_models("toy-s16/*", pretrained=True)
    assert reg.create_model("toy-s16/json", width=9).config == ToyConfig(9, 2)
    (tmp_path / "k.json").write_text(card.to_json())
    with pytest.raises(RegistryError, match=r"k\.json.*another card"):
        reg.discover(tmp_path)
    (tmp_path / "k.json").write_text(Card("orphan-s16/x").to_json())
    reg.discover(tmp_path)
    with pytest.raises(UnknownModelError, match="'orphan-s16' is not registered"):
        reg.create_model("orphan-s16/x")


def test_example_inputs_follow_overrides_or_the_hook(toys):
    model = reg.create_model("toy-s16", image_size=(6, 8))
    carry, frames = wt.example_inputs("toy-s16", model)
    assert carry.shape == (1, 3) and frames.shape == (1, 1, 6, 8, 3)
    (clip,) = wt.example_inputs("still-s16")
    assert clip.shape == (1, 1, 4, 4, 3)
    hook = lambda module, card: (module, card.name)
    reg.register("hook-s16", Toy, ToyConfig(), Card("hook-s16"), inputs=hook)
    assert wt.example_inputs("hook-s16", model) == (model, "hook-s16")


def test_import_is_light():
    code = (
        "import sys, streamzoo.zoo.registry, streamzoo.zoo.weights;"
        "print([m for m in ('huggingface_hub', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_states_the_patterns_of_the_names_that_it_registers():
    code = """
import json, sys
from streamzoo.zoo import registry
found, plain = [], registry.register
def register(name, *args, **kwargs):
    frame = sys._getframe(1)
    while not frame.f_globals["__name__"].endswith(".names"):
        frame = frame.f_back
    found.append((name, frame.f_globals["__package__"].removeprefix("streamzoo.zoo.")))
    return plain(name, *args, **kwargs)
registry.register = register
registry.import_names()
print(json.dumps([(name, folder, registry.architectures_of(name)) for name, folder in found]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    registered = json.loads(done.stdout)
    assert len(registered) > 150
    for name, folder, answer in registered:
        assert folder in answer, f"{name}: add its pattern to NAMES of zoo/{folder}/__init__.py"


ARCHITECTURE = {
    "__init__.py": 'NAMES = ("brightness-*",)\n',
    "model.py": """
import dataclasses
import flax.linen as nn
import jax.numpy as jnp

@dataclasses.dataclass(frozen=True)
class BrightnessConfig:
    image_size: tuple[int, int] = (4, 4)

class Brightness(nn.Module):
    config: BrightnessConfig
    latency = 0

    @nn.nowrap
    def init_carry(self, batch, frame_shape=None):
        return jnp.zeros((batch, 1))

    @nn.compact
    def __call__(self, carry, frames, valid=None):
        return carry, nn.Dense(2)(frames.mean(axis=(2, 3)))
""",
    "names.py": """
from ...registry import Card, register
from .model import Brightness, BrightnessConfig

register(
    "brightness-s16", Brightness, BrightnessConfig(), Card("brightness-s16", input_size=(4, 4))
)
""",
    "convert.py": """
from ...convert import Converter, Plan, Rule, linear, register_converter

RULES = [Rule("weight", "Dense_0/kernel", linear), Rule("bias", "Dense_0/bias")]
register_converter(
    Converter(
        "brightness",
        lambda keys, config: keys == {"weight", "bias"},
        lambda tensors, config: Plan("brightness-s16", RULES),
    )
)
""",
}


def test_an_architecture_is_one_folder(tmp_path):
    """A copy of the package with one folder more lists, builds and converts it."""
    root = tmp_path / "streamzoo"
    root.mkdir()
    source = Path(reg.__file__).parents[1]
    for room in ("__init__.py", "layers", "streaming"):
        (root / room).symlink_to(source / room)
    left_out = shutil.ignore_patterns("__pycache__", "bundled")
    shutil.copytree(source / "zoo", root / "zoo", ignore=left_out)
    (root / "zoo" / "bundled").symlink_to(source / "zoo" / "bundled")
    folder = root / "zoo" / "detect" / "brightness"
    folder.mkdir()
    for name, text in ARCHITECTURE.items():
        (folder / name).write_text(text)
    save_file(
        {"weight": np.ones((2, 3), "f4"), "bias": np.arange(2, dtype="f4")},
        tmp_path / "theirs.safetensors",
    )
    code = f"""
import sys, streamzoo
from streamzoo.zoo.convert import convert_checkpoint
model, params = streamzoo.init_params("brightness-s16")
print(params["params"]["Dense_0"]["kernel"].shape)
print([m for m in sys.modules if m.startswith("streamzoo.zoo.") and m.endswith(".names")])
assert "brightness-s16" in streamzoo.list_models()
plan, params = convert_checkpoint({str(tmp_path / "theirs.safetensors")!r})
print(plan.model, params["params"]["Dense_0"]["bias"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "(3, 2)",
        "['streamzoo.zoo.detect.brightness.names']",  # no other was imported for it
        "brightness-s16 [0. 1.]",
    ]
