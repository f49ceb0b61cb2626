"""Live models: many cameras in one batch, each stream knowing of the others."""

from . import models as _models  # registers the names
from .hrm import CrossStream, HRMState
from .model import LiveCarry, LiveConfig, LiveModel
from .outputs import LiveOutput
from .trm import Refine, TRMState

__all__ = [
    "CrossStream",
    "HRMState",
    "LiveCarry",
    "LiveConfig",
    "LiveModel",
    "LiveOutput",
    "Refine",
    "TRMState",
]
del _models
