"""Live models: what action models answer, and whether something happens or is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .action import ActionView

if TYPE_CHECKING:
    from ...zoo.live.outputs import LiveOutput


class LiveView(ActionView):
    """Of a JSON line also ``event`` and ``anomaly``, in [0, 1]."""

    alarms = ("event", "anomaly")

    def alarm_scores(self, output: LiveOutput | Any) -> dict[str, float]:
        scores = {"event": output.event, "anomaly": output.anomaly}
        return {name: float(score) for name, score in scores.items() if score is not None}
