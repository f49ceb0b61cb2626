"""What writes down utterances, by name: each kind of recogniser in ``listen``, and what cannot."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.streaming import writers
from streamzoo.streaming.cli import main
from streamzoo.streaming.writers import while_spoken, writer
from streamzoo.zoo.files import save
from streamzoo.zoo.speech.fastconformer.talk import Telling
from streamzoo.zoo.speech.saying import Saying
from streamzoo.zoo.speech.whisper.model import CarelessWhisper, WhisperConfig
from streamzoo.zoo.speech.whisper.standing import Standing

from ..zoo import small_conformer
from ..zoo.small_speech import AUDIO
from .spoken import Likely
from .test_listening import write


def conformer(folder):
    model, params = small_conformer.small()
    save(folder / "own.safetensors", params, {"model": "fastconformer-l", "config": model.config})
    lines = "".join(f"{piece}\t0\n" for piece in small_conformer.PIECES)
    (folder / "tokenizer.vocab").write_text(lines, encoding="utf-8")
    return folder / "own.safetensors"


def careless(folder):
    """With the English tokens of Whisper, whose file lies beside it."""
    pytest.importorskip("tokenizers")
    config = WhisperConfig(dim=8, heads=2, encoder=1, decoder=1, bands=8, vocabulary=51_864,
                           end=50_256, window=300, room=64, chunk=15)  # fmt: skip
    model = CarelessWhisper(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), jnp.zeros((1, 320)))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape).astype("f4"), shapes)
    facts = {"model": "carelesswhisper-tiny", "config": config}
    save(folder / "own.safetensors", params, facts)
    return folder / "own.safetensors"


@pytest.mark.slow
def test_a_fastconformer_is_heard_while_somebody_speaks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("streamzoo.streaming.listening.load", lambda name: (Likely(), {}))
    weights, out = conformer(tmp_path), tmp_path / "a.jsonl"
    assert isinstance(writer(str(weights), 3.0, None)(), Telling) and while_spoken(str(weights))
    clip = write(tmp_path / "a.wav", np.concatenate([AUDIO, np.zeros(16_000), AUDIO]))
    words = ["listen", clip, "--model", weights, "--out", out, "--longest", "3", "--every", "0.2"]
    assert main([str(w) for w in words]) == 0
    told, rows = capsys.readouterr(), [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) > 1 and all(row["words"] for row in rows)
    assert [line.split("  ", 1)[1] for line in told.out.splitlines()] == [r["text"] for r in rows]
    assert any(w["final"] < row["end"] for row in rows for w in row["words"])
    assert "end of a word to final" in told.err and "whole utterances" not in told.err
    with pytest.raises(ValueError, match="the best token at each frame"):
        writer(str(weights), 3.0, None, beam=2)


def test_carelesswhisper_writes_by_stable_prefixes(tmp_path):
    try:
        writers.packages.installed(writers.model_card("whisper-tiny/en").source)
    except ValueError as error:
        pytest.skip(str(error))
    weights = str(careless(tmp_path))
    saying = writer(weights, 3.0, None)()
    assert isinstance(saying, Saying) and isinstance(saying.tokens, Standing)
    assert saying.tokens.every == 0.3 and saying.tokens.begin.tokens == (50_257, 50_362)
    with pytest.raises(ValueError, match="stable prefixes, which are of one text"):
        writer(weights, 3.0, None, beam=4)
    with pytest.raises(ValueError, match="hears 6 s at once: longest at most 5 s"):
        writer(weights, 8.0, None)


@pytest.mark.parametrize(
    "name, says",
    [
        ("silero-vad/v6", "does not write what is said; --model moonshine-base/en does"),
        ("gtcrn/dns3", "while somebody speaks"),
        ("yolox-nano/coco", "does not write what is said"),
        ("carelesswhisper-tiny", "without weights.*moonshine-live-base/en have some"),
        ("fastconformer-l", "without weights"),
        ("moonshine2-tiny", "without weights"),
    ],
)
def test_what_cannot_write_says_what_can(name, says):
    with pytest.raises(ValueError, match=says):
        writer(name, 15.0, None)


def test_a_model_of_whole_utterances_is_told_to_be_one():
    assert not while_spoken("moonshine-base/en") and not while_spoken("whisper-tiny/en")
    assert while_spoken("moonshine-live-base/en") and while_spoken("fastconformer-l")


def test_tokens_that_are_not_there(tmp_path):
    weights = conformer(tmp_path)
    Path(tmp_path / "tokenizer.vocab").unlink()
    with pytest.raises(ValueError, match="makes texts of the tokens of own.safetensors"):
        writer(str(weights), 3.0, None)
