"""The stream report: its page against its JSON, its command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamzoo
from streamzoo.configs import live_hrm
from streamzoo.streaming import Step
from streamzoo.streaming.engine import EngineError, Snapshot
from streamzoo.streaming.engine.trial import Plan, run_trial
from streamzoo.train import stream_page, stream_plots, stream_report
from streamzoo.train.stream_figures import closely, row
from streamzoo.train.stream_report import main, parser
from streamzoo.zoo.weights import shapes_of

from ..streaming import stub, tiny

# --- trials -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial():
    step = Step(stub.Stub(), stub.params(), stub.CARD)
    costs = []
    got = asyncio.run(run_trial(step, Plan(3, 25.0, 1.0, 4, budget=100.0), ready=costs.append))
    assert costs == [got.costs] and got.costs.buckets == (1, 2, 3)
    return got


def test_a_trial_answers_for_every_frame(trial):
    """A busy machine may drop some; then the books say so and it does not hold."""
    lost = sum(trial.books.dropped.values())
    assert trial.books.received == 75 == trial.books.completed + lost == len(trial.stream) + lost
    assert trial.rates().sum() == pytest.approx(75 - lost) and (trial.rates() <= 25.0).all()
    p99 = np.percentile(trial.latencies(), 99)
    assert trial.holds(p99) == trial.holds() == (lost == 0) and not trial.holds(0.99 * p99)
    dropped = dataclasses.replace(trial, books=Snapshot(75, 74, dropped={"late": 1}))
    assert not dropped.holds()
    _, phases = trial.plan.draw(stub.SIZE)
    for stream in range(3):  # cameras keep their times, whatever the engine does
        frame = (trial.captured[trial.stream == stream] - phases[stream]) * 25
        np.testing.assert_allclose(frame, frame.round(), atol=1e-4)
        assert len(set(frame.round())) == len(frame) and set(frame.round()) <= set(range(25))
    assert (trial.offered >= trial.captured).all() and (trial.answered > trial.offered).all()
    counted = (trial.offered > 0.1).sum()
    assert len(trial.latencies()) == len(trial.latencies("offered")) == counted < len(trial.stream)
    assert (trial.latencies() >= trial.latencies("offered")).all()
    told, close = row(trial), closely(trial)
    assert close["frames_timed"] == sum(close["histogram"]["counts"]) == counted
    assert told["p99_ms"] == np.percentile(1e3 * trial.latencies(), 99)
    assert told == {name: close[name] for name in told} and json.loads(json.dumps(close)) == close


def test_a_number_of_streams_that_fails_is_not_held(trial, monkeypatch):
    def attempt(step, plan, say):
        if plan.streams > 2:
            raise EngineError("RESOURCE_EXHAUSTED: out of memory\nand more")
        return trial

    monkeypatch.setattr(stream_report, "_try", attempt)
    said = []
    plans = lambda n: Plan(n, 25.0, 1.0)
    most, trials, failed = stream_report.search(None, plans, 8, said.append)
    assert (most, set(trials)) == (2, {1, 2})
    assert failed == dict.fromkeys((3, 4), "RESOURCE_EXHAUSTED: out of memory") and len(said) == 2
    text = stream_page.page(made_up(trial) | {"failed": {"4": "out of <memory>"}})
    assert "4 streams failed:" in " ".join(ET.fromstring(text).itertext())
    monkeypatch.setattr(stream_report, "_try", lambda *a: attempt(None, Plan(9), None))
    with pytest.raises(EngineError):
        stream_report.search(None, plans, 8, said.append)


# --- the page ---------------------------------------------------------------------------------


def made_up(trial, streams=(1, 2, 3), accuracy=None, weights="", budget=120.0, scale=1.0):
    """A report whose figures are not of one piece; the page shows what it is given."""
    close = closely(trial)
    rows = []
    for k, n in enumerate(streams):
        p50 = scale * (10.123 + k)
        rows.append(dict(
            row(trial), streams=n, held=k % 2 == 0, p50_ms=p50, p95_ms=2 * p50, p99_ms=3.1 * p50,
            dropped=k,
        ))  # fmt: skip
    close |= {"streams": streams[-1], "fps_per_stream": [14.0 + n % 3 for n in range(streams[-1])]}
    return {
        "model": {
            "name": "tsa-<b>&\"x\"", "weights": weights, "summary": "a < b & c", "height": 32,
            "width": 48, "lookahead_frames": 0, "parameters": 123456, "carry_bytes": 789,
            "compile_seconds": 12.345, "programs": 3,
        },
        "device": {
            "platform": "cpu", "kind": "cpu", "cpu_cores": 2, "load_average_before": 0.07,
            "python": "3.11.0", "jax": "0.10.0",
        },
        "protocol": {
            "fps": 15.0, "budget_ms": budget, "seconds": 10.0, "seed": 3, "max_streams": 64,
            "steps_ahead": 2,
        },
        "streams_within_budget": 3, "limited_by_max_streams": False, "trial": close,
        "trials": rows, "failed": {}, "accuracy": accuracy, "accuracy_config": "some <config>",
    }  # fmt: skip


ACCURACY = {"top1": 0.7591, "delay_s": None, "odd": 0.25, "class/a <b>": 0.123, "class/b": 1.0}
LIVE = {"anomaly_f1": 0.8123, "top1": 0.4567, "mAP": 0.3456, "future": 0.9}


def leaves(value):
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [value]


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(streams=(1,)),
        dict(streams=tuple(range(1, 65)), scale=40.0),
        dict(accuracy=ACCURACY, weights="a/b"),
        dict(accuracy=LIVE, weights="a/b", budget=0.01),
        dict(budget=5000.0),
    ],
)
def test_the_page_holds_every_figure_and_is_well_formed(trial, options):
    report = made_up(trial, **options)
    text = stream_page.page(report)
    assert text == stream_page.page(json.loads(json.dumps(report)))  # nothing but the figures
    tree = ET.fromstring(text)  # XML: every tag is closed, every & escaped
    details = tree.find(".//details")
    assert details is not None
    said = " ".join(details.itertext())
    for leaf in leaves(report):
        assert json.dumps(leaf, ensure_ascii=False) in said, leaf
    assert not list(tree.iter("script")) and not list(tree.iter("img"))
    assert not re.search(r"(src|href)=|https?:|url\(|@import", text)
    svgs = list(tree.iter("svg"))
    assert len(svgs) == 3
    for svg in svgs:
        assert svg.findtext("title") and svg.get("aria-label") == svg.findtext("title")
        for node in svg.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert -1 <= float(node.get(name, 0)) <= stream_plots.WIDTH
            for name in ("y", "y1", "y2", "cy"):
                assert -1 <= float(node.get(name, 0)) <= stream_plots.HEIGHT
            for name in ("width", "height"):
                assert float(node.get(name, 0)) >= 0
    bars = list(svgs[0].iter("rect"))
    assert len(bars) == sum(c > 0 for c in report["trial"]["histogram"]["counts"])
    assert len(list(svgs[1].iter("rect"))) == report["trial"]["streams"]
    assert len(list(svgs[2].iter("circle"))) == 3 * len(report["trials"])
    shown = " ".join(svgs[0].itertext())
    for name in ("p50", "p95", "p99"):
        assert f"{name} {stream_plots.number(report['trial'][f'{name}_ms'])} ms" in shown
    assert f"budget {stream_plots.number(report['protocol']['budget_ms'])} ms" in shown


def test_the_page_says_what_was_not_measured(trial):
    def words(**how):
        return " ".join(ET.fromstring(stream_page.page(made_up(trial, **how))).itertext())

    assert "not measured: the weights are random" in words()
    assert "The weights are random" in words()
    assert "not measured: no config was named" in words(weights="a/b")
    known = words(weights="a/b", accuracy=ACCURACY)
    assert "not measured" not in known and "0.759" in known and "some <config>" in known
    busy = made_up(trial)
    busy["device"]["load_average_before"] = 3.5
    assert "a load of 3.5 on 2 cores" in stream_page.page(busy)
    assert "The machine was busy" not in stream_page.page(made_up(trial))


@given(st.lists(st.floats(0, 200), min_size=1, max_size=6))
def test_labels_are_kept_apart(wanted):
    got = stream_plots.apart(wanted, 12)
    order = sorted(got)
    assert all(b - a >= 12 - 1e-9 for a, b in zip(order, order[1:], strict=False))
    assert all(g <= w for g, w in zip(got, wanted, strict=True))
    assert sorted(range(len(got)), key=lambda i: -got[i])[0] == int(np.argmax(wanted))


@given(st.floats(1e-3, 1e5))
def test_axes_have_a_few_round_marks(top):
    marks = stream_plots.ticks(top)
    assert marks[0] == 0 and 2 <= len(marks) <= 6 and marks[-1] <= top * (1 + 1e-6)
    for low in (0.9 * top, 0.1 * top, 1e-4 * top):
        assert len(stream_plots.decades(low, 1.3 * top)) <= 9


# --- the command ------------------------------------------------------------------------------

RECIPE = """
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.recipe import Model, Recipe
TEST = SynthData(videos=2, size=(32, 48), split="test")
CONFIG = Recipe(data=TEST, test=TEST, model=Model("{name}"))
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The tiny student with weights of its own, and a recipe's file of 13 classes."""
    home = tmp_path_factory.mktemp("home")
    tiny.add(home)
    rng, config = np.random.default_rng(0), dict(num_classes=13)
    shapes = shapes_of(tiny.NAME, **config)
    params = jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(a.dtype), shapes)
    streamzoo.save(home / "synth.safetensors", params, {"model": tiny.NAME, "config": config})
    (home / "recipe.py").write_text(RECIPE.format(name=tiny.NAME.partition("/")[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMZOO_HOME", str(home))
        yield home
    tiny.remove()


FAST = ["--fps", "20", "--seconds", "0.6", "--max-streams", "2"]


def test_one_command_writes_the_report(student, tmp_path, capsys):
    out = tmp_path / "deep" / "report"
    argv = [tiny.NAME, "--weights", str(student / "synth.safetensors"), *FAST]
    argv += ["--config", str(student / "recipe.py"), "--set", f"cache={tmp_path}"]
    assert main([*argv, "--budget-ms", "1e5", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(out / "report.html"), str(out / "report.json")]
    for part in ("loading", "accuracy:", "1 stream at 20 frames/s", "p99 ", "held"):
        assert part in said.err, part
    found = json.loads((out / "report.json").read_text())
    page = (out / "report.html").read_text()
    assert page == stream_page.page(found)
    held = [t["streams"] for t in found["trials"] if t["held"]]  # all, unless the machine is busy
    tried = [t["streams"] for t in found["trials"]]
    assert tried == ([1, 2] if 1 in held else [1]) and found["trial"]["streams"] == max([1, *held])
    assert found["streams_within_budget"] == max([0, *held])
    assert found["limited_by_max_streams"] == (2 in held) == ("2 or more" in page)
    frames = found["trial"]["frames"]
    assert frames["received"] == 12 * found["trial"]["streams"]
    assert frames["received"] == frames["completed"] + sum(frames["dropped"].values())
    assert found["model"]["parameters"] > 1000 and found["model"]["carry_bytes"] > 0
    assert 0 <= found["accuracy"]["mAP"] <= 1 and len(found["accuracy"]) > 13


@pytest.mark.slow
def test_nothing_held_is_told_and_streams_can_be_named(student, tmp_path):
    argv = [tiny.NAME, *FAST, "--budget-ms", "0.001", "--streams", "2", "--out", str(tmp_path)]
    assert main(argv) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["streams_within_budget"] == 0 and not found["limited_by_max_streams"]
    assert found["accuracy"] is None and found["model"]["weights"] == tiny.NAME
    assert found["trial"]["streams"] == 2 and not found["trial"]["held"]
    assert [t["streams"] for t in found["trials"]] == [1, 2]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["tsa-test17/tiny"], "did you mean tsa-test16/tiny"),
        (["videomae-s16"], "is offline and reads whole clips"),
        (["tracker-lite0/davis"], "tracks what it is shown"),
        (["MODEL", "--fps", "0"], "--fps 0: give a finite number above 0"),
        (["MODEL", "--streams", "-1", "--max-streams", "0"], "--streams -1, --max-streams 0:"),
        (["MODEL", "--budget-ms", "nan"], "--budget-ms nan"),
        (["MODEL", "--seconds", "0.1"], "1 frames of a stream: give at least 10"),
        (["MODEL", "--seed", "-1"], "seed=-1: seed is at least 0"),
        (["MODEL", "--out", "OUT/file"], "cannot be written to (file exists)"),
        (["MODEL", "--out", "OUT/file/x"], "cannot be written to (not a directory)"),
        (["MODEL", "--config", "nothing"], "no config at"),
        (["MODEL", "--config", "ucf11_student"], "is of dsta-lite0 and tsa-test16/tiny is a tsa-t"),
        (["MODEL", "--config", "encoder_student"], "give the config that it was trained with"),
        (["MODEL", "--set", "test.videos=1"], "name it with --config"),
        (["tsa-ti16", "--config", "RECIPE"], "is of tsa-test16 and tsa-ti16 is a tsa-ti16"),
        (["dsta-lite0", "--config", "ucf11_student"], "has no weights"),
        (["MODEL", "--config", "RECIPE"], "tells 3 classes apart and the test data of this"),
        (["MODEL", "--weights", "OUT/none.safetensors"], "no such weights file"),
        (["tsa-ti16", "--weights", "WEIGHTS"], "are of tsa-test16/tiny, not of tsa-ti16"),
        (["OUT/none.safetensors"], "no such weights file"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(student, arguments, text, tmp_path, capsys):
    (tmp_path / "file").touch()
    known = {
        "MODEL": tiny.NAME, "OUT": str(tmp_path), "RECIPE": str(student / "recipe.py"),
        "WEIGHTS": str(student / "synth.safetensors"),
    }  # fmt: skip
    for word, value in known.items():
        arguments = [a.replace(word, value) for a in arguments]
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and text in error, error


def test_help_has_examples_that_parse():
    text = parser().format_help().partition("examples:")[2]
    commands = re.findall(r"-m streamzoo.train.stream_report ([^\n\\]*(?:\\\n[^\n]*)*)", text)
    assert len(commands) == 3
    for one in commands:
        assert parser().parse_args(one.replace("\\\n", " ").split()).out == "report"


LIVE_RECIPE = """
import dataclasses
from streamzoo.configs.live_hrm import CONFIG as SHIPPED
CONFIG = dataclasses.replace(SHIPPED, scenes=8, test_variants=1)
"""


@pytest.mark.slow
def test_a_live_model_is_measured_in_all_its_tasks(tmp_path):
    (tmp_path / "recipe.py").write_text(LIVE_RECIPE)
    fields = live_hrm.CONFIG.fields()
    _, params = streamzoo.init_params("live-mi-lite0", **fields)
    file = tmp_path / "live.safetensors"
    streamzoo.save(file, params, {"model": "live-mi-lite0", "config": fields})
    argv = ["live-mi-lite0", "--weights", str(file), "--config", str(tmp_path / "recipe.py")]
    argv += ["--set", f"cache={tmp_path}", *FAST, "--budget-ms", "1e5", "--out", str(tmp_path)]
    assert main(argv) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert {"anomaly_f1", "anomaly_auc", "event_f1", "top1", "mAP"} <= set(found["accuracy"])
    assert (found["model"]["height"], found["model"]["width"]) == (64, 96)
    page = (tmp_path / "report.html").read_text()
    assert "Anomaly F1" in page and "Detection mAP" in page
