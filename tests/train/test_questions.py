"""Benchmarks of streaming video: files, the rule of time, figures, worse films."""

import json

import numpy as np
import pytest

from streamzoo.train.data.degrade import KINDS, degrade
from streamzoo.train.metrics.streams import (
    closed_loop,
    drift,
    erasure,
    event_figures,
    grounding,
    needle_ages,
    needle_recall,
    wait_k,
)
from streamzoo.train.questions import (
    Answered,
    Asked,
    QuestionFileError,
    accuracy,
    ask_all,
    choice,
    leaks,
    read_questions,
    seconds,
)

FILES = {
    "streamingbench": [
        {
            "video_path": "a.mp4", "video_categories": "sports",
            "questions": [
                {"task_type": "Counting", "question": "How many?", "time_stamp": "00:01:30",
                 "answer": "B", "options": ["A. one", "B. two"]},
                {"task_type": "Proactive Output", "question": "Say when.", "time_stamp": "0:02:00",
                 "answer": "now", "ground_truth_output": "Goal"},
            ],
        }
    ],
    "ovo-bench": [
        {"task": "EPM", "video": "b.mp4", "realtime": 12.5, "question": "Where?",
         "options": ["here", "there"], "gt": 1},
        {"task": "REC", "video": "b.mp4", "activity": "jump",
         "test_info": [{"realtime": 3, "count": 2}, {"realtime": 9, "count": 4}]},
        {"task": "CRR", "video": "b.mp4", "question": "Can it be told?", "ask_time": 4,
         "test_info": [{"realtime": 5, "type": 0}, {"realtime": 8, "type": 1}]},
    ],
    "vstream-qa": [
        {"video_id": "c", "question": "What?", "answer": "a dog", "answer_type": "object",
         "duration": [0, 60.0]},
        {"video_name": "d", "question": "Who?", "answer": "no", "type": "yes-no"},
    ],
    "video-mme": [
        {"video_id": "001", "videoID": "xyz", "duration": "short", "task_type": "OCR",
         "question": "Which?", "options": ["A. x", "B. y", "C. z", "D. w"], "answer": "C"},
    ],
    "mlvu": [
        {"video": "m.mp4", "question": "Which?", "candidates": ["cat", "dog"], "answer": "dog",
         "question_type": "needle"},
    ],
    "longvideobench": [
        {"video_id": "v", "video_path": "v.mp4", "question": "Which?", "candidates": ["p", "q"],
         "correct_choice": 1, "question_category": "TOS", "duration_group": 600},
    ],
}  # fmt: skip
WANT = {
    "streamingbench": [("a.mp4", "Counting", 90.0, ("one", "two"), 1, "sports"),
                       ("a.mp4", "Proactive Output", 120.0, (), "Goal", "sports")],
    "ovo-bench": [("b.mp4", "EPM", 12.5, ("here", "there"), 1, "backward"),
                  ("b.mp4", "REC", 3.0, (), "2", "forward"),
                  ("b.mp4", "REC", 9.0, (), "4", "forward"),
                  ("b.mp4", "CRR", 5.0, ("No", "Yes"), 0, "forward"),
                  ("b.mp4", "CRR", 8.0, ("No", "Yes"), 1, "forward")],
    "vstream-qa": [("c", "object", 60.0, (), "a dog", ""), ("d", "yes-no", None, (), "no", "")],
    "video-mme": [("xyz", "OCR", None, ("x", "y", "z", "w"), 2, "short")],
    "mlvu": [("m.mp4", "needle", None, ("cat", "dog"), 1, "")],
    "longvideobench": [("v.mp4", "TOS", None, ("p", "q"), 1, "600")],
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_benchmarks(name, tmp_path):
    (tmp_path / "q.json").write_text(json.dumps(FILES[name]))
    found = read_questions(name, tmp_path)
    assert [(q.video, q.kind, q.at, q.options, q.answer, q.group) for q in found] == WANT[name]
    lines = "\n".join(json.dumps(row) for row in FILES[name])
    (tmp_path / "q.jsonl").write_text(lines + "\n")
    assert read_questions(name, tmp_path / "q.jsonl") == found
    (tmp_path / "q.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(QuestionFileError, match=f"layout of {name}"):
        read_questions(name, tmp_path / "q.jsonl")


def test_files_that_are_none(tmp_path):
    with pytest.raises(QuestionFileError, match="choose from streamingbench"):
        read_questions("nobench", tmp_path)
    with pytest.raises(FileNotFoundError, match="no .json"):
        read_questions("mlvu", tmp_path)
    with pytest.raises(QuestionFileError, match="not a time"):
        seconds("noon")
    assert seconds("1:02:03.5") == 3723.5


def film(_):
    return np.arange(10, dtype=float)[:, None], np.arange(10) / 2


def test_a_question_sees_its_past_alone():
    asked = [Asked("v", "latest?", "now", at, (), str(int(2 * at))) for at in (0.5, 2.0, 3.0)]
    asked.append(Asked("v", "latest?", "end", None, (), "9", "g"))
    found = ask_all(
        asked, film, lambda: None, lambda _, frame, now: frame[0],
        lambda state, _: str(int(state)),
    )  # fmt: skip
    assert all(a.right for a in found) and len(found) == 4
    assert accuracy(found) == {"end": 1, "now": 1, "group g": 1, "mean over kinds": 1, "all": 1}

    def honest(frames, times, q):
        return str(int(frames[times <= q.at][-1, 0]))

    def peeks(frames, times, q):
        return str(int(frames[-1, 0] + frames[-2, 0]))

    other = lambda frames, times, q: str(frames[times > q.at].tolist())
    assert not leaks(asked[1], *film(0), honest)
    assert leaks(asked[1], *film(0), other)
    assert leaks(asked[1], *film(0), peeks, tries=20)


def test_words_that_name_an_option():
    options = ("a red car", "a dog", "none of these")
    words = ("B", "(B) a dog", "It is a dog.", "C.", "G", "car or dog")
    assert [choice(text, options) for text in words] == [1, 1, 1, 2, -1, -1]
    assert Answered(Asked("", "", "", 0, (), "A Dog."), "a dog").right
    assert not Answered(Asked("", "", "", 0, options, 1), -1).right


def test_needles_by_their_age():
    ages = needle_ages(100, 100_000, each=2)
    assert sorted(set(ages.tolist())) == [100, 300, 1000, 3000, 10_000, 30_000, 100_000]
    got = needle_recall(ages < 3000, ages)
    assert got[1000.0] == 1.0 and got[3000.0] == 0.0


def test_rare_events():
    got = event_figures([10.5, 99.0, 50.0], [10.0, 98.0, 300.0], duration=1800.0, reach=3.0)
    assert (got.precision, got.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert got.f1 == pytest.approx(2 / 3) and got.delay == 0.75 and got.false_per_hour == 2.0
    assert np.isnan(event_figures([], [5.0], 10.0).delay)
    with pytest.raises(ValueError, match="0 s"):
        event_figures([], [], 0)


def test_a_name_goes_on_meaning_the_same():
    moments = [{"x": 1, "y": 2}, {"x": 1, "y": 2}, {"x": 2, "y": 1}, {"x": 2}]
    got = grounding(moments)
    assert got.switches == 2 and got.stability == 3 / 5 and got.reused == 2
    assert grounding([]) == (0, 1.0, 0)


def test_drift_flicker_and_waiting():
    means, ratio = drift(np.linspace(1, 2, 100), 4)
    assert len(means) == 4 and ratio == pytest.approx(means[3] / means[0])
    with pytest.raises(ValueError, match="2 values in 4"):
        drift([1, 2], 4)
    assert erasure([["a"], ["b", "c"], ["b", "d", "e"]]) == pytest.approx(2 / 3)
    assert wait_k(5, 6, 3) == [3, 4, 5, 6, 6]


def test_a_late_answer_costs():
    loops = [closed_loop(lambda seen: 0.5 * seen, 2000, latency) for latency in (0, 2, 6)]
    assert loops[0].error < loops[1].error < loops[2].error and loops[2].intervened > 0
    assert closed_loop(lambda seen: 0.0, 2000, 0).intervened > loops[0].intervened


@pytest.mark.parametrize("kind", KINDS)
def test_worse_films(kind):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 20, 28, 3)).astype(np.uint8)
    same, there = degrade(x, kind, 0.0)
    np.testing.assert_array_equal(same, x)
    assert there.all()
    errors = []
    for level in (0.25, 0.75):
        worse, there = degrade(x, kind, level)
        assert worse.shape == x.shape and worse.dtype == x.dtype and there[0]
        lost = (~there).mean()
        errors.append(lost + np.abs(worse.astype(float) - x).mean())
        np.testing.assert_array_equal(degrade(x, kind, level)[0], worse)
    assert 0 < errors[0] < errors[1]
    for bad, says in (("fog", "choose from drop"), (kind, "from 0 to 1")):
        with pytest.raises(ValueError, match=says):
            degrade(x, bad, 1.5)


def test_a_frozen_picture_is_the_last_one_that_was_seen():
    x = np.arange(1, 20_001).reshape(-1, 1, 1, 1)
    for level in (0.1, 0.5, 0.9):
        shown = degrade(x, "freeze", level, seed=1)[0].ravel()
        moves = shown == x.ravel()
        np.testing.assert_array_equal(shown, np.maximum.accumulate(np.where(moves, shown, 0)))
        assert abs((~moves).mean() - level) < 0.03, level
        # how long it stood: stalls one behind the other look like one
        stood = np.diff(np.flatnonzero(moves))[:-1] - 1
        assert set(stood[stood < 8].tolist()) == {0, 4, 5, 6, 7}, level
    assert degrade(x, "freeze", 1.0)[0].max() == 1
