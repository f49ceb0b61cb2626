"""A trained run becomes a named model: float16, without the stem it shares, with a true card."""

import json
from typing import Any

import jax
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train.data.base import DataError
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.recipe import Model, Recipe, header
from streamzoo.train.ship import bundle
from streamzoo.train.stems import with_stem
from streamzoo.zoo.registry import Card

TINY = Recipe(
    data=SynthData(videos=2, size=(32, 32)),
    test=SynthData(videos=2, size=(32, 32), split="test"),
    model=Model("tsa-mi16"),
)


def finished(folder, name="tsa-mi16", **fields):
    shape: dict[str, Any] = dict(
        image_size=(32, 32), depth=1, num_classes=13, heads=("roi",), max_boxes=2
    )
    shape |= fields
    model, variables = zoo.init_params(name, **shape)
    variables = with_stem(variables, getattr(model.config, "stem", ""))
    zoo.save(folder / "weights.safetensors", variables, header(name, shape))
    return variables


def test_a_run_gets_a_name_and_a_card(tmp_path):
    variables = finished(tmp_path)
    card, figures = bundle(tmp_path, "tsa-mi16/tiny", TINY, tmp_path, summary="a test")
    stored = Card.from_json((tmp_path / "tsa-mi16.tiny.json").read_text())
    assert stored == card and stored.summary == "a test" and stored.frame_rate == 5.0
    assert stored.metric.startswith(f"mAP {figures['mAP']:.3f}") and "lookahead_s" in stored.metric
    assert len(stored.classes) == 13 and stored.carry_bytes == 4 * 16 * 4
    model, loaded = zoo.load(tmp_path / "tsa-mi16.tiny.safetensors")
    assert model.config.depth == 1
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b, np.float16))
    for file in ("tsa-mi16.tiny.safetensors", "tsa-mi16.tiny.json"):  # nobody's model is replaced
        before = {p.name: p.read_bytes() for p in tmp_path.glob("tsa-mi16.tiny*")}
        with pytest.raises(DataError, match=f"{file}: is there already; --overwrite"):
            bundle(tmp_path, "tsa-mi16/tiny", TINY, tmp_path)
        assert before == {p.name: p.read_bytes() for p in tmp_path.glob("tsa-mi16.tiny*")}
        (tmp_path / file).unlink()
    assert bundle(tmp_path, "tsa-mi16/tiny", TINY, tmp_path, overwrite=True)[0].name == card.name


@pytest.mark.slow
def test_a_frozen_stem_is_stored_once(tmp_path):
    variables = finished(tmp_path, "tsa-lite0", image_size=(64, 64))
    path = tmp_path / "tsa-lite0.tiny.safetensors"
    params = {k: v for k, v in variables["params"].items() if k != "stem"}
    shape = dict(image_size=(64, 64), depth=1, num_classes=13, heads=("roi",), max_boxes=2)
    parts = {"parts": {"stem": "efficientnet-lite0/imagenet"}}
    zoo.save(path, {"params": params}, header("tsa-lite0", shape) | parts)
    assert path.stat().st_size < (tmp_path / "weights.safetensors").stat().st_size / 3
    _, loaded = zoo.load(path)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_wrong_names_and_folders(tmp_path):
    with pytest.raises(DataError, match="no weights at"):
        bundle(tmp_path, "tsa-mi16/tiny", TINY, tmp_path)
    finished(tmp_path)
    with pytest.raises(DataError, match="its name is dsta-mi16/TAG|is a tsa-mi16"):
        bundle(tmp_path, "dsta-mi16/tiny", TINY, tmp_path)
    with pytest.raises(DataError, match="TAG"):
        bundle(tmp_path, "tsa-mi16", TINY, tmp_path)
    assert not [p for p in tmp_path.glob("*.json") if json.loads(p.read_text())]
