"""Weights files, the search order, and a loopback server that speaks the hub's file protocol."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from huggingface_hub import constants

from streamzoo import zoo
from streamzoo.zoo import files, weights
from streamzoo.zoo import registry as reg
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.registry import Card

from .loopback import Hub


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    num_classes: int = 3
    dtype: str = "float32"


class Toy(nn.Module):
    config: ToyConfig

    def setup(self):
        self.hidden = nn.Dense(self.config.width)
        self.head = nn.Dense(self.config.num_classes, param_dtype=jnp.bfloat16)

    def __call__(self, frames):
        return self.head(self.hidden(frames.mean((2, 3))))


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """A registry of two names, an empty bundled folder, home and hub cache; no network."""
    reg.import_names()  # into the real table, not into the one of this test
    monkeypatch.setattr(reg, "_ENTRIES", {})
    monkeypatch.setattr(reg, "_BUNDLED", {})
    monkeypatch.setattr(reg, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("STREAMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # read once at import, so whichever test came first would decide for all
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    reg.register("toy-s16", Toy, ToyConfig(), Card("toy-s16", input_size=(4, 4), streaming=False))
    _tag("toy-s16/five", num_classes=5)
    return tmp_path


def _tag(name, source="", sha256="", **overrides):
    file = name.replace("/", "-") + ".safetensors"
    card = Card(
        name,
        weights=file,
        source=source,
        sha256=sha256,
        input_size=(4, 4),
        streaming=False,
        overrides=overrides,
    )
    reg.register(name, Toy, ToyConfig(), card)


def _params(seed=0):
    rng = np.random.default_rng(seed)

    def dense(*shape, dtype):
        kernel, bias = rng.normal(size=shape), rng.normal(size=shape[-1:])
        return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}

    head = dense(4, 5, dtype=jnp.bfloat16)
    return {"params": {"hidden": dense(3, 4, dtype=jnp.float32), "head": head}}


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- files -----------------------------------------------------------------------------------


def test_round_trip_keeps_values_dtypes_and_metadata(toys):
    params: Any = _params()
    # the layout of a saved file must not depend on the memory layout of what is saved
    kernel = np.asarray(params["params"]["hidden"]["kernel"])
    params["params"]["hidden"]["kernel"] = np.asfortranarray(kernel)
    metadata = {"model": "toy-s16/five", "epochs": 3}
    digest = files.save(toys / "a" / "x.safetensors", params, metadata)
    assert digest == hashlib.sha256((toys / "a" / "x.safetensors").read_bytes()).hexdigest()
    assert os.listdir(toys / "a") == ["x.safetensors"]
    flat, header = files.read_tensors(toys / "a" / "x.safetensors")
    assert set(flat) == {"hidden/kernel", "hidden/bias", "head/kernel", "head/bias"}
    assert header == {
        "format": "streamzoo",
        "format_version": "1",
        "model": "toy-s16/five",
        "epochs": "3",
    }
    back = zoo.load_weights(toys / "a" / "x.safetensors")
    _equal(back, params)
    assert back["params"]["head"]["kernel"].dtype == jnp.bfloat16
    assert isinstance(back["params"]["head"]["kernel"], jax.Array)


def test_half_storage_returns_in_the_models_dtypes(toys):
    params = jax.tree.map(np.asarray, _params())
    params["params"]["hidden"]["bias"] = np.full(4, 1e6, np.float32)  # beyond float16
    path = toys / "x.safetensors"
    files.save(path, params, {"model": "toy-s16/five"}, dtype=np.float16)
    stored = files.load_file(path)[0]["params"]
    assert stored["hidden"]["kernel"].dtype == stored["head"]["kernel"].dtype == np.float16
    assert stored["hidden"]["bias"].dtype == np.float32
    back = zoo.load_weights(path)["params"]
    assert back["hidden"]["kernel"].dtype == jnp.float32
    assert back["head"]["kernel"].dtype == jnp.bfloat16
    kernel = params["params"]["hidden"]["kernel"]
    np.testing.assert_allclose(back["hidden"]["kernel"], kernel, rtol=2**-10)
    assert (np.asarray(back["hidden"]["kernel"]) != kernel).any()
    np.testing.assert_array_equal(back["hidden"]["bias"], 1e6)


def test_load_rebuilds_a_model_from_a_file(toys):
    model, params = zoo.init_params("toy-s16", num_classes=7)
    path = toys / "mine.safetensors"
    files.save(path, params, {"model": "toy-s16", "config": model.config})
    loaded, back = zoo.load(path)
    assert loaded.config == ToyConfig(num_classes=7)
    frames = jax.random.normal(jax.random.key(1), (2, 1, 4, 4, 3))
    np.testing.assert_array_equal(loaded.apply(back, frames), model.apply(params, frames))
    with pytest.raises(WeightsError, match=r"head/kernel \[4, 7\] instead of \[4, 9\]"):
        zoo.load(path, num_classes=9)
    _equal(zoo.load_weights(path, model), params)
    _equal(zoo.load_weights(path, template=params), params)


def test_a_file_that_names_no_model(toys):
    path = toys / "x.safetensors"
    params = _params()
    files.save(path, params)
    with pytest.raises(WeightsError, match="names no model.*template"):
        zoo.load(path)
    with pytest.raises(WeightsError, match="names no model.*template"):
        zoo.load_weights(path, Toy(ToyConfig()))
    assert zoo.load_weights(path)["params"]["head"]["kernel"].dtype == jnp.float32


def test_all_misfits_in_one_message(toys):
    tree = jax.tree.map(np.asarray, _params()["params"])
    tree["hidden"]["kernel"] = tree["hidden"]["kernel"].T.copy()
    tree["head"]["bias"] = np.zeros(5, np.int32)
    tree["extra"] = {"scale": np.ones(1)}
    del tree["head"]["kernel"]
    path = toys / "x.safetensors"
    files.save(path, {"params": tree})
    with pytest.raises(WeightsError) as caught:
        zoo.load_weights(path, template=_params())
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    assert "1 missing: head/kernel" in text and "1 unexpected: extra/scale" in text
    assert "2 mis-shaped: head/bias int32 instead of bfloat16" in text
    assert "hidden/kernel [4, 3] instead of [3, 4]" in text


def test_long_lists_are_counted(toys):
    path = toys / "x.safetensors"
    files.save(path, {"params": {f"n{i}": np.zeros(1) for i in range(25)}})
    with pytest.raises(WeightsError, match=r"4 missing.*25 unexpected: n0, n1.* and 5 more") as e:
        zoo.load_weights(path, template=_params())
    assert "n19" in str(e.value) and "n20" not in str(e.value)


def test_another_projects_file_points_to_convert(toys):
    from safetensors.numpy import save_file

    save_file({"encoder.weight": np.zeros(1)}, toys / "x.safetensors")
    with pytest.raises(WeightsError, match="streamzoo convert"):
        zoo.load_weights(toys / "x.safetensors", template=_params())


@pytest.mark.parametrize("cut", [4, 60, -4])
def test_truncated_file(toys, cut):
    path = toys / "x.safetensors"
    files.save(path, _params(), {"model": "toy-s16/five"})
    path.write_bytes(path.read_bytes()[:cut])
    for read in (zoo.load_weights, zoo.load, files.load_file):
        with pytest.raises(WeightsError, match="not a complete safetensors.*download again") as e:
            read(path)
        assert str(path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "suffix", [".pt", ".pth", ".bin", ".pkl", ".PT", ".pickle", ".ckpt", ".tar"]
)
def test_pickles_are_never_read(toys, suffix):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(toys / "executed"),))

    import pickle

    path = toys / f"x{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    for read in (zoo.load_weights, zoo.load, files.load_file, files.read_metadata):
        with pytest.raises(WeightsError, match="pickles.*safetensors.*streamzoo convert"):
            read(path)
    assert not (toys / "executed").exists()


@pytest.mark.parametrize(
    "params, metadata, says",
    [
        ({"kernel": np.zeros(1)}, {}, r"\{'params': tree\}, got \['kernel'\]"),
        ({"params": {}, "batch_stats": {}}, {}, "'batch_stats'"),
        ({"params": {"a/b": np.zeros(1)}}, {}, "no '/' allowed"),
        ({"params": {}}, {}, "no parameters"),
        ({"params": {"a": np.zeros(1)}}, {"config": {"f": open}}, "'config' is not JSON"),
    ],
)
def test_what_cannot_be_saved(toys, params, metadata, says):
    with pytest.raises(WeightsError, match=says):
        files.save(toys / "x.safetensors", params, metadata)
    with pytest.raises(WeightsError, match="written as .safetensors"):
        files.save(toys / "x.npz", params)
    assert not list(toys.glob("*x.*"))


def test_number_format_that_numpy_lacks(toys):
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    path = toys / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(WeightsError, match="x.safetensors: a number format.*float4"):
        files.load_file(path)


def test_newer_format_is_refused(toys):
    files.save(toys / "x.safetensors", _params(), {"format_version": "2"})
    with pytest.raises(WeightsError, match="format version 2, this streamzoo reads 1; upgrade"):
        files.load_file(toys / "x.safetensors")


# --- search order ----------------------------------------------------------------------------


def test_bundled_comes_before_home(toys):
    file = "toy-s16-five.safetensors"
    files.save(toys / "home" / file, _params(seed=1))
    _equal(zoo.load_weights("toy-s16/five"), _params(seed=1))
    files.save(toys / "bundled" / file, _params(seed=2))
    model, params = zoo.load("toy-s16/five")
    assert model.config.num_classes == 5
    _equal(params, _params(seed=2))


def test_every_place_is_named_when_nothing_is_found(toys):
    with pytest.raises(WeightsError) as caught:
        zoo.load("toy-s16/five")
    text = str(caught.value)
    for folder in ("bundled", "home"):
        assert str(toys / folder / "toy-s16-five.safetensors") in text
    assert "names no repository" in text and "\n" not in text


def test_architecture_without_weights(toys):
    with pytest.raises(
        WeightsError, match=r"without weights; with weights: toy-s16/five; load a file"
    ):
        zoo.load("toy-s16")
    with pytest.raises(reg.UnknownModelError, match="did you mean toy-s16"):
        zoo.load("toi-s16")
    with pytest.raises(WeightsError, match="gone.safetensors: no such weights file"):
        zoo.load(toys / "gone.safetensors")


def test_sha_mismatch_names_both_hashes_and_the_file(toys):
    right = files.save(toys / "right.safetensors", _params())
    _tag("toy-s16/sha", sha256=right, num_classes=5)
    path = toys / "home" / "toy-s16-sha.safetensors"
    wrong = files.save(path, _params(seed=1))
    with pytest.raises(WeightsError, match="delete and download again") as caught:
        zoo.load("toy-s16/sha")
    assert all(part in str(caught.value) for part in (right, wrong, str(path)))
    (toys / "right.safetensors").replace(path)
    _equal(zoo.load("toy-s16/sha")[1], _params())


# --- the hub ---------------------------------------------------------------------------------


@pytest.fixture
def hub(toys, monkeypatch):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    files.save(toys / "up.safetensors", _params())
    hub.files["zoo/toy", "toy-s16-hub.safetensors"] = (toys / "up.safetensors").read_bytes()
    digest = files.sha256(toys / "up.safetensors")
    _tag("toy-s16/hub", source="hf:zoo/toy@v1", sha256=digest, num_classes=5)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_download_then_offline_from_the_cache(hub, toys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        zoo.load("toy-s16/hub")
    text = str(caught.value)
    assert "hf:zoo/toy@v1:toy-s16-hub.safetensors (offline, HF_HUB_OFFLINE is set" in text
    for folder in ("bundled", "home", "cache"):
        assert str(toys / folder) in text
    assert "\n" not in text and hub.requests == []

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    _equal(zoo.load("toy-s16/hub")[1], _params())
    path = "/zoo/toy/resolve/v1/toy-s16-hub.safetensors"
    assert hub.requests == [f"HEAD {path}", f"GET {path}"]

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _equal(zoo.load("toy-s16/hub")[1], _params())
    assert len(hub.requests) == 2


def test_direct_hub_addresses(hub):
    data = hub.files["zoo/toy", "toy-s16-hub.safetensors"]
    hub.files["zoo/toy", "model.safetensors"] = data
    hub.files["zoo/toy", "sub/x.safetensors"] = data
    for spec in ("hf:zoo/toy", "hf:zoo/toy@v1", "hf:zoo/toy:sub/x.safetensors"):
        _equal(zoo.load_weights(spec, template=_params()), _params())
    assert [request.split()[1] for request in hub.requests if request.startswith("HEAD")] == [
        "/zoo/toy/resolve/main/model.safetensors",
        "/zoo/toy/resolve/v1/model.safetensors",
        "/zoo/toy/resolve/main/sub/x.safetensors",
    ]


@pytest.mark.parametrize(
    "spec, says",
    [
        ("hf:zoo/gone", "hf:zoo/gone@main:model.safetensors.*no such repository"),
        ("hf:zoo/toy@v9", "hf:zoo/toy@v9.*no such revision"),
        ("hf:zoo/toy:nix.safetensors", "nix.safetensors.*no such file"),
        ("hf:zoo/toy:x.bin", "only .safetensors"),
        ("hf:zoo", "is not hf:owner/repo"),
        ("hf:zoo/to--y", "HFValidationError"),
    ],
)
def test_hub_addresses_that_lead_nowhere(hub, spec, says):
    with pytest.raises(WeightsError, match=says) as caught:
        zoo.load_weights(spec, template=_params())
    assert "\n" not in str(caught.value)


def test_unreachable_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's back-off
    with pytest.raises(WeightsError, match="http://127.0.0.1:9 cannot be reached"):
        zoo.load("toy-s16/hub")


def test_truncated_download_leaves_nothing_behind(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = 100
    with pytest.raises(WeightsError, match="download from http.*failed.*try again") as caught:
        zoo.load("toy-s16/hub")
    assert "\n" not in str(caught.value)
    hub.cut = None
    _equal(zoo.load("toy-s16/hub")[1], _params())


def test_hub_file_with_another_hash(hub, toys):
    """The remedy in the message works: delete the file it names, download again."""
    name = ("zoo/toy", "toy-s16-hub.safetensors")
    right = hub.files[name]
    files.save(toys / "other.safetensors", _params(seed=1))
    hub.files[name] = (toys / "other.safetensors").read_bytes()
    with pytest.raises(WeightsError, match="delete and download again") as caught:
        zoo.load("toy-s16/hub")
    text = str(caught.value)
    assert hashlib.sha256(right).hexdigest() in text
    assert hashlib.sha256(hub.files[name]).hexdigest() in text
    hub.files[name] = right
    os.remove(text.split(": sha256")[0])
    _equal(zoo.load("toy-s16/hub")[1], _params())


def test_environment_of_a_fresh_process(hub, toys):
    """HF_HOME, HF_ENDPOINT and offline mode as a user sets them, with no argument anywhere."""
    code = (
        "import json, sys; from streamzoo.zoo import files as w;"
        "from streamzoo.zoo.resolve import find_weights;"
        "p = w.load_file(find_weights('hf:zoo/toy@v1:toy-s16-hub.safetensors'))[0];"
        "print(json.dumps(p['params']['hidden']['kernel'].tolist()))"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_HOME": str(toys / "hf"), "HF_ENDPOINT": hub.address}
    run = lambda **more: subprocess.run(
        [sys.executable, "-c", code], env=env | more, capture_output=True, text=True
    )
    first = run()
    assert first.returncode == 0, first.stderr
    want = np.asarray(_params()["params"]["hidden"]["kernel"])
    np.testing.assert_array_equal(np.float32(json.loads(first.stdout)), want)
    count = len(hub.requests)
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout and len(hub.requests) == count
    empty = run(HF_HUB_OFFLINE="1", HF_HOME=str(toys / "empty"))
    assert empty.returncode == 1 and "WeightsError: no weights; looked for hf:zoo" in empty.stderr


def test_names_that_moved_are_still_found():
    assert weights.save is files.save
    assert weights.read_metadata is files.read_metadata
    assert weights.load_file is files.load_file
