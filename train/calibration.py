"""A decision fitted to what a model saw, and measured on what was held back (``calibrate``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..zoo.action.decision import Decision
from .data.base import DataError
from .decision import (
    Answered,
    Figures,
    Wanted,
    calibration_error,
    figures,
    fit,
    fit_domain,
    fit_temperature,
    known,
)
from .metrics import figure
from .seen import LEARNED, OTHER, Seen

FEWEST = 2  # clips of the actions, and others, on either side
WANTED = Wanted(alarms=0.5, risk=0.2, holds=(2, 3, 4))
PENALTY = 3e-3  # of the gate's weights


class Fitted(NamedTuple):
    """A decision and what it does, on what it was fitted to and on what was held back."""

    decision: Decision
    fitted: dict[str, Figures]
    held_back: dict[str, Figures]
    errors: tuple[float, float]  # expected calibration error held back, without and with
    answers: tuple[np.ndarray, np.ndarray, np.ndarray]  # held back: see ``decision_plot.draw``


def calibrate(
    seen: Sequence[Seen],
    several: bool,
    nothing: Iterable[int] = (),
    wanted: Wanted = WANTED,
    penalty: float = PENALTY,
) -> Fitted:
    """Fits to what is not held back, and measures on what is.

    several: classes do not exclude each other; nothing: numbers of classes that are no action.
    Raises DataError where a side has too few videos.
    """
    nothing = frozenset(nothing)
    seen = [one._replace(truth=one.truth - nothing) for one in seen]
    parts = {side: _kinds([s for s in seen if s.held_back == side]) for side in (False, True)}
    for side, kinds in parts.items():
        for kind, flag in (("actions", "--in-domain or --config"), ("others", "--others")):
            if len(kinds[kind]) < FEWEST:
                raise DataError(
                    f"{len(kinds[kind])} videos of {kind} to {'measure on' if side else 'fit to'}: "
                    f"too few; give at least {2 * FEWEST} clips with {flag}, and --held-back "
                    "between 0 and 1"
                )
    ours = parts[False]
    logits = np.concatenate([one.logits for one in ours["actions"]])
    truth = np.concatenate([_truth(one, several) for one in ours["actions"]])
    temperature = round(fit_temperature(logits, truth, several), 3)
    inside = [one for one in seen if one.kind == LEARNED and not one.held_back]
    outside = [one for one in seen if one.kind == OTHER and not one.held_back]
    domain = fit_domain(_features(inside), _features(outside), penalty)
    rule = Decision(
        temperature=temperature, domain=tuple(round(weight, 4) for weight in domain),
        several=several, nothing=tuple(sorted(nothing)),
    )  # fmt: skip
    unknown = [*ours["others"], *ours["nothing"]]
    rule, *_ = fit(rule, _answered(rule, ours["actions"]), _answered(rule, unknown), wanted)
    back = parts[True]
    raw = dataclasses.replace(rule, temperature=1.0, domain=())
    warm = dataclasses.replace(rule, domain=())
    errors = tuple(_error(one, back["actions"]) for one in (raw, warm))
    answers = [_best(one, [*back["actions"], *back["others"]]) for one in (raw, rule)]
    return Fitted(
        rule,
        {kind: _measure(rule, found) for kind, found in ours.items() if found},
        {kind: _measure(rule, found) for kind, found in back.items() if found},
        (errors[0], errors[1]),
        (answers[0][0], answers[1][0], answers[0][1]),
    )


def _kinds(seen: Sequence[Seen]) -> dict[str, list[Seen]]:
    """By what is expected of a decision."""
    learned = [one for one in seen if one.kind == LEARNED]
    return {
        "actions": [one for one in learned if one.truth],
        "nothing": [one for one in learned if not one.truth],
        "others": [one for one in seen if one.kind != LEARNED],
    }


def _truth(one: Seen, several: bool) -> np.ndarray:
    if not several:
        return np.full(len(one.logits), min(one.truth))
    row = [number in one.truth for number in range(one.logits.shape[1])]
    return np.tile(np.asarray(row, float), (len(one.logits), 1))


def _features(seen: Sequence[Seen]) -> np.ndarray:
    return np.concatenate([*(one.frame for one in seen), *(one.persons for one in seen)])


def _answered(rule: Decision, seen: Sequence[Seen]) -> list[Answered]:
    scores = lambda one: np.asarray(
        rule.scores(jnp.asarray(one.logits) / rule.temperature, jnp.asarray(one.frame))
    )
    return [Answered(scores(one), one.frame_rate, one.truth) for one in seen]


def _measure(rule: Decision, seen: Sequence[Seen]) -> Figures:
    found = _answered(rule, seen)
    return figures(known(rule, found), found)


def _best(rule: Decision, seen: Sequence[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame the best score, and whether its class is true."""
    found = _answered(rule, seen)
    top = np.concatenate([one.scores.max(axis=1) for one in found])
    right = [np.isin(one.scores.argmax(axis=1), list(one.truth)) for one in found]
    return top, np.concatenate(right)


def _error(rule: Decision, seen: Sequence[Seen]) -> float:
    return calibration_error(*_best(rule, seen))


ROWS = {"actions": "clips of its actions", "nothing": "clips of no action", "others": "others"}


def report(found: Fitted, alarms: float, risk: float) -> str:
    """What was found, and what it does, as a table."""
    rule, error = found.decision, [figure(one, ".3f") for one in found.errors]
    lines = [
        f"temperature {rule.temperature:g}, on {rule.on:g}, off {rule.off:g}, hold {rule.hold}",
        f"asked for: at most {alarms:g} false alarms per minute of no action, risk {risk:g}",
        f"calibration error of the clips held back: {error[0]}, at the temperature {error[1]}",
        f"{'':32}videos  minutes  coverage   risk  alarms  per minute",
    ]
    for side, rows in (("fitted to", found.fitted), ("held back", found.held_back)):
        lines += [_row(f"{side}: {ROWS[kind]}", one) for kind, one in rows.items()]
    if rule.on > 1:
        lines.append("nothing is ever said: no threshold is quiet enough; allow more --alarms")
    return "\n".join(lines)


def _row(name: str, one: Figures) -> str:
    coverage, risk = (
        "n/a" if name.endswith(ROWS["others"]) else figure(share, ".3f")
        for share in (one.coverage, 1 - one.right)
    )
    return (
        f"{name:32}{one.videos:6}  {one.minutes:7.2f}  {coverage:>8}  {risk:>5}  {one.alarms:6}  "
        f"{one.alarms_per_minute:10.3f}"
    )
