"""Words of a FastConformer while somebody speaks, their times, and the files of their pieces."""

import json

import numpy as np
import pytest

from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.speech.fastconformer.pieces import SPACE, Pieces
from streamzoo.zoo.speech.fastconformer.recognise import Recogniser
from streamzoo.zoo.speech.fastconformer.talk import Telling

from .small_conformer import AUDIO, PIECES, small


@pytest.mark.slow
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_words_stay_however_the_sound_is_cut(head):
    runs, model, params = [], *small()
    for size in (900, 5000) if head == "ctc" else (900, 5000, len(AUDIO)):
        telling = Telling(model, params, Pieces(PIECES).words, head, every=0.25)
        before = ()
        for at in range(0, len(AUDIO), size):
            said = telling.push(AUDIO[at : at + size])
            assert said.words[: len(before)] == before
            before = said.words
        end = telling.flush()
        assert end.words[: len(before)] == before and end.maybe == ""
        for a, b in zip(end.words, end.words[1:], strict=False):
            assert 0 <= a.start <= a.end <= b.start and a.end <= a.at <= b.at
        runs.append(end)
    assert all(run == runs[0] for run in runs) and len(runs[0].words) > 2
    assert any(word.at < runs[0].words[-1].start for word in runs[0].words)  # while it goes on
    # they are what the recogniser says of the whole
    own = Recogniser(model, head)
    carry, said = own(params, own.init_carry(1), AUDIO[None])
    tokens = [t for t, _ in said.of()] + [t for t, _ in own.flush(params, carry)[1].of()]
    assert [w.text for w in runs[0].words] == [w for w, _, _ in Pieces(PIECES).words(tokens)]


def test_a_word_is_said_where_its_tokens_frames_are():
    model, params = small()
    telling = Telling(model, params, Pieces(PIECES).words, every=0.25)
    telling._tokens = [(1, 0.08, 0.5), (0, 0.24, 0.5), (2, 0.4, 0.75), (1, 0.48, 1.0)]
    telling.samples = 16_000
    telling._grow(ends=False)
    words = [(w.text, round(w.start, 2), round(w.end, 2), w.at) for w in telling.said().words]
    # final when the word behind it was heard
    assert words == [("ba", 0.08, 0.32, 0.75), ("c", 0.4, 0.48, 1.0)]
    assert telling.said().maybe == "b"


def test_pieces_of_both_files(tmp_path):
    weights = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match=r"neither tokenizer.json nor tokenizer.vocab"):
        Pieces.beside(weights, 3)
    lines = "".join(f"{piece}\t{-i}\n" for i, piece in enumerate(PIECES))
    (tmp_path / "tokenizer.vocab").write_text(lines, encoding="utf-8")
    assert Pieces.beside(weights, 3).pieces == PIECES
    with pytest.raises(WeightsError, match="the weights know 99"):
        Pieces.beside(weights, 99)
    for vocabulary in ({p: i for i, p in enumerate(PIECES)}, [[p, 0.0] for p in PIECES]):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
        assert Pieces.beside(weights, 3).pieces == PIECES
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(WeightsError, match="not a tokenizer of pieces"):
        Pieces.beside(weights, 3)


def test_pieces_become_words():
    pieces = Pieces(["a", f"{SPACE}b", f"{SPACE}", "c"])
    assert pieces.words([0, 3, 1, 0, 2, 3]) == [("ac", 0, 2), ("ba", 2, 4), ("c", 4, 6)]
    assert pieces.words([]) == [] and pieces.words([2]) == []


def test_a_real_tokenizer_of_a_kept_library_reads_the_same(tmp_path):
    """The words are those of ``tokenizers`` on its own file."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.BPE({p: i for i, p in enumerate(PIECES)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    numbers = [1, 0, 2, 1, 2, 0, 0]
    words = Pieces.beside(tmp_path / "model.safetensors", 3).words(numbers)
    assert " ".join(word for word, _, _ in words) == tokenizer.decode(numbers).strip()
    assert np.diff([i for _, i, _ in words]).min() > 0
