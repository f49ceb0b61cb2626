"""When a model speaks: gates with hysteresis, and the signals that published systems put to them.

Every trigger is a frozen value with ``begin()`` -> state and ``trigger(state, signal) -> (state,
decision)``, so a question can be tried on a copy of the state and leaves no trace.
"""

from .cascade import Cascade
from .change import ChangeTrigger, Quantile, valleys
from .confidence import Confidence, confidence
from .gate import Gate, GateState
from .scene_change import SceneChange
from .silence import Interval, Speak, Verify
from .speculation import Speculate, Speculation

__all__ = [
    "Cascade",
    "ChangeTrigger",
    "Confidence",
    "Gate",
    "GateState",
    "Interval",
    "Quantile",
    "SceneChange",
    "Speak",
    "Speculate",
    "Speculation",
    "Verify",
    "confidence",
    "valleys",
]
