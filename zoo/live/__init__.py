"""Live models: many cameras in one batch, each stream knowing of the others."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .cross_stream.hrm import CrossStream, HRMState
    from .cross_stream.model import LiveCarry, LiveConfig, LiveModel
    from .cross_stream.trm import Refine, TRMState
    from .outputs import LiveOutput

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
__getattr__ = on_demand(__name__, __file__)
