"""A published file is the model that its config.json says, or is refused: nothing is guessed."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

from streamzoo import zoo
from streamzoo.zoo.convert import ConvertError, convert_checkpoint, converter_for, plan_checkpoint
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.files import read_tensors
from streamzoo.zoo.published import PREPROCESSORS
from streamzoo.zoo.resolve import _known, find

from ..parity import (
    rows_concepts,
    rows_conv,
    rows_depth,
    rows_detect,
    rows_encode,
    rows_segment,
    rows_track,
)
from .loopback import Hub

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOMS = (
    rows_encode, rows_conv, rows_segment, rows_track, rows_depth, rows_detect, rows_concepts,
)  # fmt: skip
ROWS = {row.name: row for room in ROOMS for row in room.ROWS if "transformers" in row.reference}
# one row for each table; names by which the layout of a hub repository is found
FAMILIES = {
    "dinov2": "dinov2-s14", "dinov2reg": "dinov2reg-s14", "dinov3": "dinov3-s16",
    "eupe": "dinov3-s16", "clip": "clip-b32", "clip-dual": "clip-dual-b32",
    "siglip": "siglip-b16", "siglip-dual": "siglip-dual-b16", "siglip2": "siglip2-b16",
    "siglip2-dual": "siglip2-dual-b16", "radio": "radio-h16", "vjepa2": "vjepa2-l16",
    "videoprism": "videoprism-b18", "depthanything": "depthanything-s14",
    "temporaldepth": "depthanything-s14", "dpt": "dpt-l16", "depthpro": "depthpro-l16",
    "groundingdino": "groundingdino-t", "sam3": "sam3-l14",
}  # fmt: skip
OTHERS = ["sam-b16", "sam2-t", "sam2.1video", "edgetam-m1", "dinov3-convnext-t", "videomae"]
# the numbers of each config that a last layer, or a width, would change
DEPTHS = ("num_hidden_layers", "num_spatial_layers", "depths", "memory_attention_num_layers",
          "blocks_per_stage")  # fmt: skip
HEADS = {
    "sam2-t": "num_attention_heads_per_stage",
    "sam2.1video": "num_attention_heads_per_stage",
    "edgetam-m1": "memory_attention_num_attention_heads",
    "dinov3-convnext-t": "hidden_act",
}
LOOK = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
_made = {}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name of a row -> its folder as published."""

    def make(name):
        if name not in _made:
            folder = tmp_path_factory.mktemp(name.replace(".", "-"))
            if name == "videomae":
                videomae(folder)
            else:
                ROWS[name].save(ROWS[name].build(), folder)
            _made[name] = folder
        return _made[name]

    yield make
    _made.clear()


def videomae(folder):
    """A classifier of clips as transformers writes it."""
    import transformers

    sizes: dict[str, Any] = dict(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
        image_size=32, num_frames=4, num_labels=7,
    )  # fmt: skip
    config = transformers.VideoMAEConfig(**sizes)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)


def _copy(folder, to, config):
    shutil.copytree(folder, to)
    (to / "config.json").unlink()
    if config is not None:
        (to / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return to


def _changed(config, names, change):
    """A copy in which every field of these names, wherever it is, is another."""
    changed = 0

    def walk(tree):
        nonlocal changed
        for key, value in tree.items():
            if key in names:
                tree[key], changed = change(value), changed + 1
            elif isinstance(value, dict):
                walk(value)

    config = json.loads(json.dumps(config))
    walk(config)
    assert changed, names
    return config


def _more(value):
    return value[:-1] + [value[-1] + 1] if isinstance(value, list) else value + 1


@pytest.mark.parametrize("name", sorted(set(FAMILIES.values()) | set(OTHERS)))
def test_a_file_needs_its_config(saved, tmp_path, name):
    folder, chosen = saved(name), converter_for(name)
    config = json.loads((folder / "config.json").read_text())
    plan = plan_checkpoint(folder, chosen)
    with pytest.raises(ConvertError, match="no config.json beside the weights.*fetch config.json"):
        plan_checkpoint(_copy(folder, tmp_path / "absent", None), chosen)
    # a layer that is missing at the end of the file
    more = _changed(config, DEPTHS, _more)
    with pytest.raises(ConvertError, match="config.json says.*(incomplete|blocks)"):
        plan_checkpoint(_copy(folder, tmp_path / "deeper", more), chosen)
    # a config that is no config
    for i, (text, words) in enumerate({"{": "not JSON", "[]": "not a JSON object"}.items()):
        with pytest.raises(WeightsError, match=words) as caught:
            plan_checkpoint(_copy(folder, tmp_path / f"bad{i}", text), chosen)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConvertError) as caught:
        plan_checkpoint(_copy(folder, tmp_path / "empty", {}), chosen)
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)
    # of another kind, or of heads that do not fit: never a Python error
    for i, value in enumerate((None, "many", 10**6, [0], {})):
        heads = HEADS.get(name, "num_attention_heads")
        wrong = _changed(config, (heads,), lambda old, new=value: new)
        with pytest.raises(ConvertError) as caught:
            plan_checkpoint(_copy(folder, tmp_path / f"kind{i}", wrong), chosen)
        assert "\n" not in str(caught.value)
    assert plan.model in zoo.list_models()


ENCODER = {"layer_norm_eps": "eps", "hidden_act": "activation"}
VISION = {f"vision_config.{told}": ours for told, ours in ENCODER.items()}
DUAL = {f"vision_config.{told}": f"image.{ours}" for told, ours in ENCODER.items()}
DUAL |= {f"text_config.{told}": f"text.{ours}" for told, ours in ENCODER.items()}
SEGMENT = {"prompt_encoder_config.layer_norm_eps": "prompt_eps"}
SAM2 = SEGMENT | {
    f"vision_config.backbone_config.{told}": f"trunk.{ours}" for told, ours in ENCODER.items()
}
MEMORY = {
    "sigmoid_scale_for_mem_enc": "mask_scale", "sigmoid_bias_for_mem_enc": "mask_bias",
    "rope_parameters.rope_theta": "rope_base",
}  # fmt: skip
# where a number that no weight shows stands in config.json, and where in our config
NUMERICS = {
    "dinov2-s14": ENCODER, "dinov2reg-s14": ENCODER, "radio-h16": ENCODER, "vjepa2-l16": ENCODER,
    "dinov3-s16": ENCODER | {"rope_theta": "rope_base"},
    "videoprism-b18": ENCODER | {"attn_logit_softcapping": "softcap"},
    "dinov3-convnext-t": {"layer_norm_eps": "eps"}, "videomae": {"layer_norm_eps": "eps"},
    "clip-b32": VISION, "siglip-b16": VISION, "siglip2-b16": VISION,
    "clip-dual-b32": DUAL, "siglip-dual-b16": DUAL, "siglip2-dual-b16": DUAL,
    "sam-b16": SEGMENT | {
        f"{part}.{told}": f"{place}.{ours}" for told, ours in ENCODER.items()
        for part, place in (("vision_config", "trunk"), ("mask_decoder_config", "decoder"))
    },
    "depthanything-s14": {
        f"backbone_config.{told}": f"encoder.{ours}" for told, ours in ENCODER.items()
    },
    "dpt-l16": {told: f"encoder.{ours}" for told, ours in ENCODER.items()},
    "groundingdino-t": {
        "layer_norm_eps": "eps", "positional_embedding_temperature": "temperature",
        "backbone_config.layer_norm_eps": "trunk.eps", "text_config.layer_norm_eps": "text.eps",
    },
    "sam3-l14": {
        f"vision_config.backbone_config.{told}": f"trunk.{ours}" for told, ours in ENCODER.items()
    } | {f"text_config.{told}": f"text.{ours}" for told, ours in ENCODER.items()} | {
        "vision_config.backbone_config.rope_parameters.rope_theta": "trunk.rope_base",
    },
    "depthpro-l16": {},  # its encoders have to be alike, so that none changes alone
    "sam2-t": SAM2, "sam2.1video": SAM2 | MEMORY, "edgetam-m1": SEGMENT | MEMORY,
}  # fmt: skip


@pytest.mark.parametrize("name", NUMERICS)
def test_numbers_that_no_weight_shows_are_the_configs(saved, tmp_path, name):
    """Each is changed alone, to what no default is, and arrives at its place alone."""
    folder, before = saved(name), None
    assert set(NUMERICS) == set(FAMILIES.values()) | set(OTHERS)
    for told, ours in [("", ""), *NUMERICS[name].items()]:
        config = json.loads((folder / "config.json").read_text())
        *parts, field = told.split(".")
        place = config
        for part in parts:
            place = place[part]
        value = 0.00375
        if field == "hidden_act":
            value = "gelu" if place[field] == "relu" else "relu"
        if told:
            place[field] = value
        to = _copy(folder, tmp_path / f"of {told}", config)
        plan = plan_checkpoint(to, converter_for(name))
        found = dict(_leaves(plan.overrides))
        if before is None:
            before = found
            continue
        assert found[ours] == value, (told, ours)
        others = {key for key in found.keys() | before.keys() if found.get(key) != before.get(key)}
        assert others == {ours}, told


def _leaves(tree, at=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


@pytest.mark.parametrize("name", ["sam-b16", "sam2-t", "edgetam-m1"])
def test_an_activation_that_ours_has_not_is_refused(saved, tmp_path, name):
    folder = saved(name)
    config = json.loads((folder / "config.json").read_text())
    config["prompt_encoder_config"]["hidden_act"] = "relu"
    to = _copy(folder, tmp_path / "relu", config)
    with pytest.raises(ConvertError, match="prompt encoder: .*hidden_act 'relu'"):
        plan_checkpoint(to, converter_for(name))


def test_a_missing_last_layer_is_not_a_smaller_model(saved, tmp_path):
    from safetensors.numpy import save_file

    for name in ("dinov3-s16", "siglip-b16", "vjepa2-l16"):
        folder = saved(name)
        config = json.loads((folder / "config.json").read_text())
        last = config.get("vision_config", config)["num_hidden_layers"] - 1
        tensors, _ = read_tensors(folder / "model.safetensors")
        ends = (f"layer.{last}.", f"layers.{last}.")
        cut = [k for k in tensors if "predictor" not in k and any(e in k for e in ends)]
        left = {k: v for k, v in tensors.items() if k not in cut}
        assert len(left) < len(tensors)
        save_file(left, _copy(folder, tmp_path / name, config) / "model.safetensors")
        with pytest.raises(ConvertError, match="num_hidden_layers .* the weights have"):
            convert_checkpoint(tmp_path / name)


# --- every registered address ----------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STREAMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def _published():
    for name in zoo.list_models(pretrained=True):
        card = zoo.model_card(name)
        if card.source.startswith("hf:") and card.weights is None:
            yield name, card.source[3:], FAMILIES[card.arch.rsplit("-", 1)[0]]


def test_every_registered_address_needs_its_config(hub, saved, monkeypatch, tmp_path):
    """Absent, refused, or of another model: an error in a line, and no model."""
    names = list(_published())
    assert len(names) > 30
    for name, repo, row in names:
        folder = saved(row)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / name))  # several share a repository
        hub.files[repo, "model.safetensors"] = (folder / "model.safetensors").read_bytes()
        hub.files.pop((repo, "config.json"), None)
        hub.status.clear()
        with pytest.raises(ConvertError, match=f"hf:{repo}.*no config.json beside the weights"):
            zoo.load(name)
        # nothing is known of it: that it was missing would count while the hub cannot be asked
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / f"{name}, new"))
        hub.files[repo, "config.json"] = (folder / "config.json").read_bytes()
        hub.status[repo, "config.json"] = 503
        with pytest.raises(WeightsError, match="config.json.*answered 503") as caught:
            zoo.load(name)
        assert "\n" not in str(caught.value)
        hub.status.clear()
        config = json.loads((folder / "config.json").read_text())
        more = _changed(config, DEPTHS, _more)
        hub.files[repo, "config.json"] = json.dumps(more).encode()
        with pytest.raises(ConvertError, match=f"hf:{repo}.*config.json says"):
            zoo.load(name)


ANSWERS = {
    401: "answered 401|token", 403: "answered 403.*conditions", 404: "answered 404",
    429: "answered 429.*wait", 500: "answered 500.*later", 503: "answered 503.*later",
    "unreachable": "cannot be reached", "offline": "HF_HUB_OFFLINE is set",
}  # fmt: skip
FILES = ("config.json", "model.safetensors", *PREPROCESSORS)


def _answers(hub, monkeypatch, repo, answer, files=FILES):
    """From now on the hub answers so for these files."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if answer == "offline" else "0")
    away = "http://127.0.0.1:9" if answer == "unreachable" else hub.address
    monkeypatch.setenv("HF_ENDPOINT", away)
    hub.status = {(repo, file): answer for file in files if isinstance(answer, int)}


FEW = [("one of each family", answer) for answer in (503, "offline")]
ALL = [pytest.param("every name", answer, marks=pytest.mark.slow) for answer in ANSWERS]


@pytest.mark.parametrize("which, answer", [*FEW, *ALL])
def test_registered_names_tell_what_the_hub_answers(
    hub, saved, monkeypatch, tmp_path, which, answer
):
    """Of each of their files; and a model in the cache is the same, whatever the hub says."""
    names = [*_published(), (None, "videomae/any", "videomae")]
    if which != "every name":
        names = {row: (name, repo, row) for name, repo, row in names}.values()
    for name, repo, row in names:
        folder, asked = saved(row), name or f"hf:{repo}"
        files = {(repo, f): (folder / f).read_bytes() for f in ("config.json", "model.safetensors")}
        hub.files |= files | {(repo, PREPROCESSORS[1]): json.dumps(LOOK).encode()}
        read = lambda what=asked: _known(find(what)).card({})
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / f"{name}"))
        _answers(hub, monkeypatch, repo, None)
        first = read()
        assert first.mean == tuple(LOOK["image_mean"])
        if name is not None:  # the name's own card, not its architecture's
            assert first.source == f"hf:{repo}" and first.name == zoo.model_card(name).name
        _answers(hub, monkeypatch, repo, answer)
        assert read() == first
        # each file alone is refused, and nothing is in the cache
        for i, file in enumerate(FILES):
            if isinstance(answer, str) and file != "model.safetensors":
                continue  # no single file is unreachable
            monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / f"{name} {i}"))
            _answers(hub, monkeypatch, repo, answer, [file])
            with pytest.raises(WeightsError, match=f"{file}.*({ANSWERS[answer]})") as caught:
                read()
            assert "\n" not in str(caught.value)
        hub.files.clear()


@pytest.mark.parametrize(
    "code, words",
    [(401, "answered 401|token"), (403, "answered 403.*conditions"), (429, "answered 429.*wait"),
     (500, "answered 500.*later"), (503, "answered 503.*later")],
)  # fmt: skip
def test_what_the_hub_answers_is_told(hub, saved, code, words):
    """Of the weights and of the config alike, and it changes no number."""
    folder = saved("dinov3-s16")
    files, repo = ("config.json", "model.safetensors"), ""
    for file in files:
        repo = f"a/{file.split('.')[0]}"
        hub.files |= {(repo, other): (folder / other).read_bytes() for other in files}
        hub.status = {(repo, file): code}
        with pytest.raises(WeightsError, match=f"{file}.*({words})") as caught:
            zoo.load(f"hf:{repo}")
        assert "\n" not in str(caught.value) and "cannot be reached" not in str(caught.value)
    hub.status.clear()
    first = zoo.load(f"hf:{repo}")
    # what lies in the cache serves when the hub fails
    hub.status = {(repo, file): code for file in files}
    again = zoo.load(f"hf:{repo}")
    assert again[0].config == first[0].config
    name = "params"
    np.testing.assert_array_equal(again[1][name]["registers"], first[1][name]["registers"])
