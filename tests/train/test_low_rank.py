"""A file of a change of low rank: what comes back, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train.low_rank import factors, main
from streamzoo.zoo.adapted import adapted
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.speech.moonshine.live import MoonshineLive
from streamzoo.zoo.speech.moonshine.model import MoonshineConfig
from streamzoo.zoo.trees import flatten, nest

SIZES = dict(dim=24, hidden=48, heads=2, encoder=1, decoder=1, turned=6, vocabulary=30)
MATRIX = "encoder_0/attn/qkv/kernel"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(header, the variables of a small model, their file)."""
    model = MoonshineLive(MoonshineConfig(**SIZES))
    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    header = {"model": "moonshine-live-tiny", "config": dataclasses.asdict(model.config)}
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    zoo.save(path, variables, header)
    return header, variables, path


def changed(variables, rank):
    """The variables, one matrix of them with a random change."""
    flat, rng = flatten(variables), np.random.default_rng(0)
    wide, out = flat[MATRIX].shape
    change = rng.normal(size=(wide, rank)) @ rng.normal(size=(rank, out))
    return nest(flat | {MATRIX: flat[MATRIX] + 0.01 * change.astype(np.float32)})


def test_weights_come_back_from_the_file_of_their_change(base, tmp_path, monkeypatch, capsys):
    header, variables, path = base
    want = changed(variables, 3)
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    zoo.save(whole, want, header)
    words = [str(whole), "--of", str(path), "--rank", "3", "--out", str(small)]
    monkeypatch.setattr("sys.argv", ["low_rank", *words])
    main()
    assert "MB" in capsys.readouterr().out
    assert small.stat().st_size < path.stat().st_size / 4
    got = flatten(zoo.load(small)[1])
    for name, leaf in flatten(want).items():
        if name != MATRIX:
            np.testing.assert_array_equal(got[name], leaf)
    apart = np.abs(got[MATRIX] - flatten(want)[MATRIX]).max()
    moved = np.abs(flatten(want)[MATRIX] - flatten(variables)[MATRIX]).max()
    assert 0 < apart < 0.03 * moved  # 8 bits of each factor


def test_what_is_no_change_of_low_rank_is_refused(base, tmp_path):
    _, variables, _ = base
    with pytest.raises(WeightsError, match="more than rank 2"):
        factors(changed(variables, 3), variables, 2)
    flat = flatten(variables)
    other = nest(flat | {"gain": flat["gain"] + 1})
    with pytest.raises(WeightsError, match="gain differs too"):
        factors(other, variables, 3)
    pair = factors(changed(variables, 3), variables, 3)
    alone = {name: leaf for name, leaf in pair.items() if name.endswith("a_kernel")}
    with pytest.raises(WeightsError, match="b_kernel' is not"):
        adapted(variables, alone, tmp_path)
    elsewhere = {name.replace("encoder_0", "encoder_9"): leaf for name, leaf in pair.items()}
    with pytest.raises(WeightsError, match="encoder_9"):
        adapted(variables, elsewhere, tmp_path)
