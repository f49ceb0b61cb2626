"""One resolver: a name, a file, a folder or an address gives module, parameters and card."""

import json
import socket
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save as to_bytes

from streamzoo import zoo
from streamzoo.layers.streaming import StreamingModule
from streamzoo.zoo import hub as hubs
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.registry import TASKS
from streamzoo.zoo.resolve import find_weights

from .loopback import Hub
from .test_vit import dinov3, publish

LOOK = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STREAMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    publish(hub, "a/small", *dinov3())
    hub.files["a/small", "preprocessor_config.json"] = json.dumps(LOOK).encode()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def _folder(path, config, tensors):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(to_bytes(tensors, metadata={"format": "pt"}))
    return path


def test_every_model_says_its_task():
    cards = {name: zoo.model_card(name) for name in zoo.list_models()}
    assert not {name for name, card in cards.items() if card.task not in TASKS}
    assert cards["dsta-lite0/ucf11"].task == "action"  # of the package, found as a card
    assert cards["siglip-b16/webli"].task == "encode" and cards["sam2-t"].task == "segment"
    assert cards["tracker-lite0"].task == "track" and cards["live-mi-lite0"].task == "live"
    with pytest.raises(ValueError, match="task 'nix' is not one of action"):
        zoo.Card("a-b", task="nix")


def test_every_streaming_model_is_one_by_type():
    for name in zoo.list_models(streaming=True):
        module = zoo.create_model(name)
        assert isinstance(module, StreamingModule), name
        takes = {"speech": "audio", "text": "tokens"}.get(zoo.model_card(name).task, "frames")
        takes = "latents" if name in ("taehv", "wan-vae") else takes
        assert module.latency >= 0 and module.inputs[0] == takes, name
        assert module.cross_stream == (zoo.model_card(name).task == "live"), name


@pytest.mark.parametrize("kind", ["address", "folder"])
def test_the_card_is_that_of_the_checkpoint(hub, tmp_path, kind):
    what = "hf:a/small"
    if kind == "folder":
        what = _folder(tmp_path / "small", *dinov3())
        (what / "preprocessor_config.json").write_text(json.dumps(LOOK))
    model, params, card = zoo.resolve(what, image_size=(32, 48))
    assert model.config.dim == 32 and card.task == "encode" and card.input_size == (32, 48)
    assert card.mean == (0.1, 0.2, 0.3) and card.std == (0.4, 0.5, 0.6)
    assert card.overrides["dim"] == 32
    again, weights = zoo.load(what, image_size=(32, 48))
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, params, weights)
    assert zoo.card_of(what, image_size=(32, 48)) == card
    # without a preprocessor's file: what the family is known by
    if kind == "address":
        publish(hub, "a/plain", *dinov3())
        assert zoo.card_of("hf:a/plain").mean == zoo.model_card("dinov3-s16").mean


def test_a_file_of_ours_tells_its_card(tmp_path):
    name = "tsa-mi16"
    fields: dict[str, Any] = dict(num_classes=2, image_size=(32, 48), depth=1)
    model, params = zoo.init_params(name, **fields)
    facts = {
        "classes": ["sit", "stand"],
        "multi_label": False,
        "frame_rate": 12.5,
        "mean": [0.5] * 3,
    }
    path = tmp_path / "own.safetensors"
    zoo.save(path, params, {"model": name, "config": model.config, **facts, "training": "x"})
    found = zoo.resolve(path)
    card = found.card
    assert (card.name, card.task, card.input_size) == (name, "action", (32, 48))
    assert card.classes == ("sit", "stand") and not card.multi_label and card.frame_rate == 12.5
    assert card.mean == (0.5, 0.5, 0.5) and card.std == zoo.model_card(name).std
    zoo.save(path, params, {"model": name, "config": model.config, "classes": "3"})
    with pytest.raises(ValueError, match=r"own.safetensors: its classes is '3'"):
        zoo.resolve(path)
    zoo.save(path, params, {"model": name, "config": "[1]"})
    with pytest.raises(WeightsError, match="no JSON object"):
        zoo.load(path)


def test_a_name_needs_no_weights_for_its_card(hub):
    assert zoo.card_of("tsa-s16", image_size=(64, 64)).input_size == (64, 64)
    assert zoo.card_of("dinov3-s16/lvd1689m").task == "encode" and hub.requests == []
    with pytest.raises(ValueError, match="no field 'sise'"):
        zoo.card_of("tsa-s16", sise=1)


def test_an_offline_encoder_has_a_stream_with_the_same_answers(hub):
    model, params, card = zoo.resolve("hf:a/small", image_size=(32, 48))
    stream = zoo.as_stream(model, card)
    frames = np.random.default_rng(0).normal(size=(2, 3, 32, 48, 3)).astype(np.float32)
    _, out = stream.apply(params, stream.init_carry(2, (32, 48)), frames)
    want = model.apply(params, frames.reshape(-1, 32, 48, 3))
    np.testing.assert_allclose(out.pooled.reshape(6, -1), want.pooled, rtol=1e-5, atol=1e-5)
    window = zoo.as_stream(zoo.create_model("videomae-mi16"), zoo.model_card("videomae-mi16"))
    assert window.config.frames == 16 and window.latency == 0
    for name in ("vjepa2-l16", "sam2-t", "clip-dual-b32"):
        with pytest.raises(ValueError, match=f"{name} is a .* no form for a stream"):
            zoo.as_stream(zoo.create_model(name), zoo.model_card(name))


# --- a hub that cannot be reached ------------------------------------------------------------


def _no_host(*args, **kwargs):
    raise socket.gaierror(-2, "Name or service not known")


def test_an_unknown_host_is_asked_once(hub, monkeypatch):
    """The client alone would retry for most of a minute; every sleep is of a retry."""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "create_connection", _no_host)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("a retry"))
    asked = []
    real = huggingface_hub.hf_hub_download

    def download(*args, **kwargs):
        asked.append(kwargs["local_files_only"])
        return real(*args, **kwargs)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match="host hub.invalid cannot be resolved") as caught:
        zoo.load("dinov3-s16/lvd1689m")
    assert "\n" not in str(caught.value) and asked and all(asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://other.invalid")
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        zoo.load("dinov3-s16/lvd1689m")


def test_what_is_in_the_cache_needs_no_host(hub, monkeypatch):
    first = zoo.load_weights("hf:a/small")
    monkeypatch.setattr(hubs, "_reached", {})
    monkeypatch.setattr(socket, "create_connection", _no_host)
    jax.tree.map(np.testing.assert_array_equal, first, zoo.load_weights("hf:a/small"))


def test_a_home_with_a_tilde_is_the_users(monkeypatch, tmp_path, own_compile_cache):
    from streamzoo.streaming.step import enable_compile_cache

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STREAMZOO_HOME", "~/x")
    monkeypatch.chdir(tmp_path)
    assert enable_compile_cache() == tmp_path / "x" / "xla"
    assert enable_compile_cache() == tmp_path / "x" / "xla"  # what JAX has stays
    assert enable_compile_cache("~/other") == tmp_path / "other"
    assert not (tmp_path / "~").exists()
    weights = tmp_path / "x" / "dinov3-s16.lvd1689m.safetensors"
    weights.write_bytes(to_bytes({"a": np.zeros(1)}))
    assert find_weights("dinov3-s16/lvd1689m") == weights


# --- files that are not the model ------------------------------------------------------------


def test_a_file_in_the_home_serves_its_own_name_alone(monkeypatch, tmp_path):
    """$STREAMZOO_HOME/model.safetensors could be that of any model; nobody takes it."""
    monkeypatch.setenv("STREAMZOO_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "model.safetensors").write_bytes(to_bytes({"a": np.zeros(1)}))
    for name in ("dinov3-s16/lvd1689m", "eupe-s16/lvd1689m"):
        own = name.replace("/", ".")
        with pytest.raises(WeightsError, match=rf"{own}.safetensors \(no such file\)"):
            find_weights(name)
        folder = _folder(tmp_path / own, *dinov3())
        assert find_weights(name) == folder / "model.safetensors"


def test_a_model_in_parts_is_whole_or_says_what_is_missing(tmp_path):
    config, tensors = dinov3()
    files = {key: f"model-{1 + i % 3:05}-of-00003.safetensors" for i, key in enumerate(tensors)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in sorted(set(files.values())):
        part = {key: tensors[key] for key in tensors if files[key] == file}
        (tmp_path / file).write_bytes(to_bytes(part, metadata={"format": "pt"}))
    one = tmp_path / "model-00001-of-00003.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    for what in (one, tmp_path):
        with pytest.raises(WeightsError, match="one of 3 parts.*index.json") as caught:
            zoo.load(what)
        assert "delete" not in str(caught.value) and "\n" not in str(caught.value)
    index.write_text(json.dumps({"weight_map": files}))
    whole = zoo.load_weights(tmp_path)
    for what in (one, index):
        jax.tree.map(np.testing.assert_array_equal, whole, zoo.load_weights(what))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    for what in (one, index, tmp_path):
        with pytest.raises(WeightsError, match="1 of 3 parts missing: model-00002-of") as caught:
            zoo.load(what)
        assert "delete" not in str(caught.value)


def test_frames_that_the_patch_does_not_divide_lose_the_rest():
    """SigLIP's 384 pixels in patches of 14: a strided convolution never sees the last six."""
    fields = dict(dim=32, depth=1, heads=2, patch=14, image_size=(48, 48), table_grid=(3, 3))
    model, params = zoo.init_params("siglip-so400m14", ragged=True, **fields)
    frames = np.random.default_rng(0).normal(size=(1, 48, 48, 3)).astype(np.float32)
    whole, cut = model.apply(params, frames), model.apply(params, frames[:, :42, :42])
    np.testing.assert_array_equal(whole.pooled, cut.pooled)
    with pytest.raises(ValueError, match="not a multiple of 14"):
        zoo.create_model("siglip-so400m14", **fields)


OVERRIDES = [
    ("tsa-mi16", dict(depth="four")), ("tsa-mi16", dict(dim=None)), ("tsa-mi16", dict(depth=True)),
    ("tsa-mi16", dict(image_size=5)), ("tsa-mi16", dict(image_size=[32, "x"])),
    ("tsa-mi16", dict(temporal=7)), ("tsa-mi16", dict(num_classes=-3)),
    ("dinov3-s16", dict(eps="small")), ("sam2.1video-t", dict(decoder=dict(heads="two"))),
]  # fmt: skip


@pytest.mark.parametrize("name, wrong", OVERRIDES)
def test_a_malformed_override_or_header_is_one_line(tmp_path, name, wrong):
    (key,) = wrong
    path = tmp_path / "x.safetensors"
    zoo.save(path, {"params": {"a": np.zeros(1)}}, {"model": name, "config": wrong})
    for read in (lambda: zoo.create_model(name, **wrong), lambda: zoo.load(path)):
        with pytest.raises(ValueError, match=f"{name}.*{key}.* is not such as ") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_header_that_is_no_json_is_one_line(tmp_path):
    model, params = zoo.init_params("tsa-mi16", depth=1, image_size=(32, 32))
    path = tmp_path / "x.safetensors"
    for key, text in (("parts", "{"), ("parts", "[1]"), ("config", "{"), ("model", "nix-a")):
        zoo.save(path, params, {"model": "tsa-mi16", "config": model.config} | {key: text})
        with pytest.raises(ValueError, match="x.safetensors: the|unknown model 'nix-a'") as caught:
            zoo.load(path)
        assert "\n" not in str(caught.value)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n")
    with pytest.raises(WeightsError, match="pointer of Git LFS.*git lfs pull") as caught:
        zoo.load(path)
    assert "delete" not in str(caught.value)
