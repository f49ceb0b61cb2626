"""The past of a stream: a search is brute force over what is kept, by words and by time."""

import json

import numpy as np
import pytest

from streamzoo.streaming import cli
from streamzoo.streaming.chat import Moments, Round
from streamzoo.streaming.commands.find import read_rounds

from .test_chat import talking


def letters(texts):
    """In an encoder's place: how often each letter stands in a text."""
    rows = [[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts]
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def some(count, seed=0):
    rng = np.random.default_rng(seed)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 12)) for _ in range(count)]
    return [(2.0 * i, word) for i, word in enumerate(words)]


@pytest.mark.parametrize("most", [1000, 64, 7])
def test_a_search_is_brute_force_over_the_latest(most):
    moments, rounds = Moments(letters, most), some(300)
    for at, text in rounds:
        moments.add(at, text)
    kept = rounds[-most:]
    assert len(moments) == len(kept) and moments.forgotten == 300 - len(kept)
    vectors = letters([text for _, text in kept]).astype(np.float16).astype(np.float32)
    for query in ("aaab", "xyz", kept[-1][1]):
        score = vectors @ letters([query])[0]
        found = moments.search(query, 5)
        told = [m.score for m in found]
        np.testing.assert_allclose(told, np.sort(score)[: -len(found) - 1 : -1], rtol=1e-5)
        own = [score[kept.index((m.time, m.text))] for m in found]  # each is of its own words
        np.testing.assert_allclose(told, own, rtol=1e-5)
        # between two times, both included
        low, high = kept[len(kept) // 3][0], kept[len(kept) // 2][0]
        inside = [i for i, (at, _) in enumerate(kept) if low <= at <= high]
        best = max(inside, key=lambda i: score[i])
        one = moments.search(query, 1, after=low, before=high)
        assert (one[0].time, one[0].text) == kept[best]


def test_moments_near_each_other_are_told_once_and_memory_is_bounded():
    moments = Moments(letters, 50)
    for at in range(200):
        moments.add(float(at), "abc")
    found = moments.search("abc", 100, apart=10.0)
    assert len(found) == 5 and min(np.diff(sorted(m.time for m in found))) >= 10
    size = moments.nbytes
    for at in range(200, 2000):
        moments.add(float(at), "abc")
    assert moments.search("abc", 1)[0].time == 1999.0 and moments.nbytes == size
    assert moments.search("abc", 3, before=10.0) == []  # long forgotten
    with pytest.raises(ValueError, match="nothing to look for"):
        moments.search("  ")
    with pytest.raises(ValueError, match="behind one at"):
        moments.add(0.0, "earlier")
    assert Moments(letters).search("abc") == []


@pytest.mark.slow
def test_a_question_is_asked_with_the_moments_that_it_is_about():
    past = Moments(letters)
    talk_ = talking(budget=128, past=past, recall=1)
    for at in range(24):
        talk_.hear(Round(float(at), "zzzzzz" if at == 3 else "ab ba", ()))
    tokens, known = talk_.asked("zz?")
    assert known == "zzzzzz"  # the memory lost it long ago
    assert talk_.speaker.tokenizer.text(tokens) == "u:You saw before: zzzzzz zz?\na:"
    before = [np.asarray(a).copy() for a in talk_.state.memory.notes.values()]
    talk_.ask("zz?", 24.0)
    for a, b in zip(before, talk_.state.memory.notes.values(), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))
    # what is recalled never takes more than half of the room: none of it where none fits
    talk_.past = Moments(letters)
    talk_.past.add(41.0, "z" * 400)
    assert talk_.asked("zz?")[1] == ""
    talk_.past = None
    assert talk_.asked("zz?")[1] == ""


def test_a_transcript_is_searched_from_the_command_line(tmp_path, monkeypatch, capsys):
    from streamzoo.zoo import text

    monkeypatch.setattr(text.Sentences, "load", classmethod(lambda _: letters))
    file = tmp_path / "talk.jsonl"
    rows = [{"time": t, "kind": "silent", "seen": s} for t, s in some(20)]
    rows.insert(3, {"time": 5.0, "kind": "answer", "text": "no round"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_rounds(file)) == 20
    target = some(20)[11][1]
    assert cli.main(["find", str(file), target, "--after", "10", "--count", "1"]) == 0
    assert capsys.readouterr().out.split() == ["0:22", "1.00", target]
    assert cli.main(["find", str(file), target, "--before", "0.5", "--after", "0.2"]) == 1
    for words, says in (
        ([str(file), " "], "nothing to look for"),
        ([str(tmp_path / "none.jsonl"), "x"], "no such file"),
        ([str(tmp_path / "bad.jsonl"), "x"], "not a line of a transcript"),
        ([str(tmp_path / "empty.jsonl"), "x"], "no rounds in it"),
    ):
        (tmp_path / "bad.jsonl").write_text("hello\n")
        (tmp_path / "empty.jsonl").write_text('{"kind": "answer"}\n')
        assert cli.main(["find", *words]) == 2
        assert says in capsys.readouterr().err
