"""Questions about videos at their times, from the files of published benchmarks, and their rule.

The rule: an answer may use what was shown up to the question's time, and nothing later. A model is
given no more (:func:`ask_all`), and :func:`leaks` shows noise in the place of the future to one
that reads by itself.

Files are read from a folder of one's own; nothing is fetched. Sources of the layouts:
StreamingBench (THUNLP-MT/StreamingBench), OVO-Bench (JoeLeelyf/OVO-Bench, ovo_bench_new.json),
VStream-QA (IVGSZ/Flash-VStream), Video-MME, MLVU, LongVideoBench (lvb_val.json), as published.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "ABCDEFGHIJ"


class QuestionFileError(ValueError):
    """A file that is not of the layout."""


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
      video: path or name of the film.
      text: the question.
      kind: of the benchmark's tasks.
      at: seconds at which it is asked; None at the end of the film.
      options: to choose from, without their letters; () for an open question.
      answer: number of the right option, or the text of an open one.
      group: the benchmark's own groups (real-time, backward, forward, or a length).
    """

    video: str
    text: str
    kind: str
    at: float | None
    options: tuple[str, ...]
    answer: int | str
    group: str = ""


def seconds(text: str | float) -> float:
    """1:02:03 or 62.5 -> seconds. Raises QuestionFileError: something else."""
    try:
        total = 0.0
        for part in str(text).strip().split(":"):
            total = 60 * total + float(part)
        return total
    except ValueError:
        raise QuestionFileError(f"{text!r}: not a time such as 00:01:30") from None


def _plain(options: Iterable[str]) -> tuple[str, ...]:
    return tuple(re.sub(r"^\s*\(?[A-J][.):]\)?\s*", "", option).strip() for option in options)


def _letter(text: str) -> int:
    found = re.match(r"\s*\(?([A-J])\b", text)
    if found is None:
        raise QuestionFileError(f"{text!r}: not the letter of an option")
    return LETTERS.index(found[1])


def _streaming_bench(rows: Any) -> Iterable[Asked]:
    for row in rows:
        for q in row["questions"]:
            options = _plain(q.get("options") or ())
            answer = (
                _letter(q["answer"]) if options else str(q.get("ground_truth_output", q["answer"]))
            )
            at = seconds(q["time_stamp"])
            yield Asked(
                row["video_path"], q["question"], q["task_type"], at, options, answer,
                str(row.get("video_categories", "")),
            )  # fmt: skip


OVO_GROUPS = {
    **dict.fromkeys(("EPM", "ASI", "HLD"), "backward"),
    **dict.fromkeys(("OCR", "ACR", "ATR", "STU", "FPD", "OJR"), "real-time"),
    **dict.fromkeys(("REC", "SSR", "CRR"), "forward"),
}


def _ovo(rows: Any) -> Iterable[Asked]:
    for row in rows:
        kind, video = row["task"], row["video"]
        group = OVO_GROUPS.get(kind, "")
        if group != "forward":
            options = tuple(row["options"])
            at = seconds(row["realtime"])
            yield Asked(video, row["question"], kind, at, options, int(row["gt"]), group)
            continue
        # asked again and again while the film goes on
        for test in row["test_info"]:
            at = seconds(test["realtime"])
            if kind == "REC":
                text = f"How many times did they {row.get('activity', row.get('question', ''))}?"
                yield Asked(video, text, kind, at, (), str(test["count"]), group)
            else:
                text = test.get("step") or row.get("question", "")
                yield Asked(video, text, kind, at, ("No", "Yes"), int(test["type"]), group)


def _vstream(rows: Any) -> Iterable[Asked]:
    for row in rows:
        span = row.get("duration")
        end = span[1] if isinstance(span, (list, tuple)) else row.get("end_time")
        kind = str(row.get("answer_type", row.get("type", "")))
        name = row.get("video_id", row.get("video_name"))
        at = None if end is None else seconds(end)
        yield Asked(str(name), row["question"], kind, at, (), row["answer"])


def _video_mme(rows: Any) -> Iterable[Asked]:
    for row in rows:
        name = row.get("videoID", row["video_id"])
        yield Asked(
            name, row["question"], row["task_type"], None, _plain(row["options"]),
            _letter(row["answer"]), row.get("duration", ""),
        )  # fmt: skip


def _mlvu(rows: Any) -> Iterable[Asked]:
    for row in rows:
        options = tuple(row.get("candidates", ()))
        if options and row["answer"] not in options:
            raise QuestionFileError(f"{row['answer']!r} is none of {options}")
        answer = options.index(row["answer"]) if options else row["answer"]
        yield Asked(row["video"], row["question"], row["question_type"], None, options, answer)


def _long_video_bench(rows: Any) -> Iterable[Asked]:
    for row in rows:
        name = row.get("video_path", row["video_id"])
        yield Asked(
            name, row["question"], row["question_category"], None, tuple(row["candidates"]),
            int(row["correct_choice"]), str(row.get("duration_group", "")),
        )  # fmt: skip


READERS: dict[str, Callable[[Any], Iterable[Asked]]] = {
    "streamingbench": _streaming_bench,
    "ovo-bench": _ovo,
    "vstream-qa": _vstream,
    "video-mme": _video_mme,
    "mlvu": _mlvu,
    "longvideobench": _long_video_bench,
}


def read_questions(benchmark: str, path: str | Path) -> list[Asked]:
    """The questions of a file, JSON or JSON lines, or of every such file of a folder.

    Raises:
      QuestionFileError: an unknown benchmark, or a file of another layout.
      FileNotFoundError: no such file or folder, or a folder without any.
    """
    if benchmark not in READERS:
        known = ", ".join(READERS)
        raise QuestionFileError(f"unknown benchmark {benchmark!r}; choose from {known}")
    path = Path(path)
    files = sorted([*path.glob("*.json"), *path.glob("*.jsonl")]) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path}: no .json or .jsonl file in it")
    found = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        try:
            lines = file.suffix == ".jsonl"
            rows = (
                [json.loads(x) for x in text.splitlines() if x.strip()]
                if lines
                else json.loads(text)
            )
            found += READERS[benchmark](rows)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise QuestionFileError(
                f"{file}: not of the layout of {benchmark} ({error!r})"
            ) from None
    return found


@dataclass(frozen=True)
class Answered:
    """A question and what was said."""

    asked: Asked
    said: int | str

    @property
    def right(self) -> bool:
        """The option, or the text without regard to case, points and spaces."""
        if isinstance(self.asked.answer, int):
            return self.said == self.asked.answer
        plain = lambda text: re.sub(r"[\W_]+", " ", str(text)).strip().lower()
        return plain(self.said) == plain(self.asked.answer)


def choice(text: str, options: Sequence[str]) -> int:
    """The option that a model's words name, by its letter or its text; -1 for none."""
    if found := re.match(r"\s*\(?([A-J])(?:[).:\s]|$)", text):
        number = LETTERS.index(found[1])
        return number if number < len(options) else -1
    low = text.strip().lower()
    named = [i for i, option in enumerate(options) if option.lower() in low]
    return named[0] if len(named) == 1 else -1


def ask_all(
    questions: Iterable[Asked],
    frames: Callable[[str], tuple[np.ndarray, np.ndarray]],
    begin: Callable[[], Any],
    see: Callable[[Any, np.ndarray, float], Any],
    answer: Callable[[Any, Asked], int | str],
) -> list[Answered]:
    """Shows each film once, and asks its questions at their times.

    Args:
      questions: of any films.
      frames: video -> (frames [F, ...], times [F] in s).
      begin: -> state of a stream.
      see: (state, frame, time) -> state.
      answer: (state, question) -> what is said; it must leave the state as it is.
    """
    by_video: dict[str, list[Asked]] = defaultdict(list)
    for question in questions:
        by_video[question.video].append(question)
    found = []
    for video, asked in by_video.items():
        film, times = frames(video)
        waiting = sorted(asked, key=lambda q: np.inf if q.at is None else q.at)
        state = begin()
        for frame, now in zip(film, times, strict=True):
            while waiting and waiting[0].at is not None and waiting[0].at < now:
                question = waiting.pop(0)
                found.append(Answered(question, answer(state, question)))
            state = see(state, frame, float(now))
        found += [Answered(question, answer(state, question)) for question in waiting]
    return found


def leaks(
    asked: Asked,
    film: np.ndarray,
    times: np.ndarray,
    answer: Callable[[np.ndarray, np.ndarray, Asked], int | str],
    tries: int = 3,
    seed: int = 0,
) -> bool:
    """Whether an answer changes with what is shown after its question.

    Args:
      asked: a question with a time.
      film, times: [F, ...] and [F].
      answer: (film, times, question) -> what is said, by a model that reads the film itself.
      tries: other futures.
    """
    if asked.at is None:
        return False
    later = np.asarray(times) > asked.at
    said, rng = answer(film, times, asked), np.random.default_rng(seed)
    for _ in range(tries):
        other = np.array(film)
        other[later] = rng.permutation(other[later].reshape(-1)).reshape(other[later].shape)
        if answer(other, times, asked) != said:
            return True
    return False


def accuracy(answers: Iterable[Answered]) -> Mapping[str, float]:
    """Share of right answers of each kind, of each group, the mean over kinds, and over all."""
    by: dict[str, list[bool]] = defaultdict(list)
    every, kinds = [], set[str]()
    for one in answers:
        by[one.asked.kind].append(one.right)
        kinds.add(one.asked.kind)
        if one.asked.group:
            by[f"group {one.asked.group}"].append(one.right)
        every.append(one.right)
    figures = {name: float(np.mean(values)) for name, values in sorted(by.items())}
    if every:
        figures["mean over kinds"] = float(np.mean([figures[k] for k in kinds]))
        figures["all"] = float(np.mean(every))
    return figures
