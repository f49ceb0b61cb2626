"""Running models on streams: the jitted step, sessions, slots, frame sources, the CLI."""

from typing import TYPE_CHECKING

from ..layers.lazy import on_demand

if TYPE_CHECKING:
    from .session import Result, Session
    from .slots import Slots
    from .sources import SourceError, open_source
    from .step import Step, enable_compile_cache, rollout

__all__ = [
    "Result",
    "Session",
    "Slots",
    "SourceError",
    "Step",
    "enable_compile_cache",
    "open_source",
    "rollout",
]
__getattr__ = on_demand(__name__, __file__)
