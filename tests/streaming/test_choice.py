"""The fastest runtime and precision that leaves a model what it is, chosen once."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from streamzoo.streaming import Session, choice
from streamzoo.streaming.bench_runtimes import FRAMES, Entrant
from streamzoo.streaming.precision import RuntimeRefused
from streamzoo.zoo import create_model, model_card

from . import tiny
from .test_runtimes import step_of

PICTURES = np.random.default_rng(3).integers(0, 256, (FRAMES, 32, 48, 3), np.uint8)


@pytest.fixture(autouse=True)
def able(monkeypatch, tmp_path):
    """A processor with bf16, on which it takes half the time; a home of its own."""
    monkeypatch.setenv("STREAMZOO_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "processor", lambda: frozenset({"avx512_bf16"}))
    took(monkeypatch, {"fp32": 20.0, "bf16": 10.0})


def took(monkeypatch, milliseconds):
    class Timed(Entrant):
        def tick(self, number):
            self.times.append(1e-3 * milliseconds[self.step.precision])

    monkeypatch.setattr(choice, "Entrant", Timed)


def chosen(**given):
    step = step_of("tsa", "jax")
    return choice.choose(step.model, step.params, step.card, **{"runtime": "jax", **given})


@pytest.mark.parametrize(("points", "precision"), [(79.6, "bf16"), (79.4, "fp32")])
def test_half_a_point_of_the_metric_may_be_lost(points, precision):
    found = chosen(metric=lambda step: {"fp32": 80.0, "bf16": points}[step.precision])
    assert (found.runtime, found.precision, found.by) == ("jax", precision, "metric")
    narrow = next(r for r in found.rows if r.precision == "bf16")
    assert narrow.milliseconds == 10 and narrow.lost == pytest.approx(80 - points)
    assert bool(narrow.refused) == (precision == "fp32")
    assert "points lost; by metric" in str(found)


def test_it_is_measured_once_for_this_machine(monkeypatch, tmp_path):
    first = chosen(pictures=PICTURES)
    assert first.by == "difference" and not first.remembered
    file = next((tmp_path / "choices").glob("*.json"))
    assert json.loads(file.read_text())["processor"] == ["avx512_bf16"]

    def fails(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(choice, "Entrant", fails)
    assert chosen() == dataclasses.replace(first, remembered=True)
    with pytest.raises(AssertionError):  # a metric says more than a difference
        chosen(metric=lambda step: 1.0)
    monkeypatch.setattr(choice, "processor", lambda: frozenset({"avx2"}))
    with pytest.raises(AssertionError):
        chosen()
    monkeypatch.setattr(choice, "processor", lambda: frozenset({"avx512_bf16"}))
    file.write_text("{")
    with pytest.raises(AssertionError):
        chosen()


def test_other_weights_and_batches_are_measured_anew(monkeypatch):
    step = step_of("tsa", "jax")
    chosen(batch=2)

    def fails(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(choice, "Entrant", fails)
    assert chosen(batch=2).remembered
    moved = jax.tree.map(lambda a: a * 1.5, step.params)
    for given in (dict(batch=1), dict(batch=2, params=moved)):
        params = given.pop("params", step.params)
        with pytest.raises(AssertionError, match="measured again"):
            choice.choose(step.model, params, step.card, runtime="jax", **given)


def test_every_picture_is_shown(monkeypatch):
    shown = []

    class Seen(choice.Entrant):
        def answers(self):
            shown.append(self.frames)
            return super().answers()

    monkeypatch.setattr(choice, "Entrant", Seen)
    chosen(pictures=PICTURES)
    for frames in shown:
        np.testing.assert_array_equal(np.stack(frames)[:, 0, 0], PICTURES)
    assert len(shown) == 2


def test_answers_that_differ_too_much_are_refused(monkeypatch):
    found = chosen()
    assert (found.precision, found.by) == ("bf16", "difference on noise")
    lost = next(r.lost for r in found.rows if r.precision == "bf16")
    assert lost is not None and 1e-4 < lost < choice.SPREAD
    monkeypatch.setattr(choice, "SPREAD", lost / 2)
    assert chosen(batch=2).precision == "fp32"


def test_the_spread_is_that_of_every_answer():
    rng = np.random.default_rng(0)
    exact = [rng.normal(size=(1, 4)) * s for _ in range(FRAMES) for s in (1, 100)]
    other = [a + (0.1 if k % 2 else 0.0) for k, a in enumerate(exact)]
    large = np.stack(exact[1::2]).std()
    assert choice.spread(exact, other) == pytest.approx(0.1 / large)
    assert choice.spread(exact, [a * np.nan for a in exact]) == np.inf


def test_a_processor_without_the_instructions_is_told_no_speed(monkeypatch):
    monkeypatch.setattr(choice, "processor", lambda: frozenset({"avx2"}))
    found = chosen()
    assert found.precision == "fp32"
    narrow = next(r for r in found.rows if r.precision == "bf16")
    assert narrow.milliseconds is None
    assert "no faster here: this processor has none of" in narrow.refused


def test_a_gain_within_the_noise_is_none(monkeypatch):
    took(monkeypatch, {"fp32": 20.0, "bf16": 19.5})
    assert chosen().precision == "fp32"


def test_a_session_takes_what_was_chosen(home, monkeypatch):
    monkeypatch.setenv("STREAMZOO_HOME", str(home))
    with Session.of(tiny.NAME, runtime="jax", precision="auto") as session:
        assert session._step.precision in ("fp32", "bf16")


def test_a_tracker_is_not_judged_by_noise():
    name = "tracker-lite0"
    with pytest.raises(RuntimeRefused, match="precision auto: tracker-lite0 follows what it is"):
        choice.choose(create_model(name), {}, model_card(name))
    with pytest.raises(RuntimeRefused, match="runtime 'tpu': choose from"):
        chosen(runtime="tpu")
