"""Running models on streams: the jitted step, sessions, slots, frame sources, the CLI."""

from .session import Result, Session
from .slots import Slots
from .sources import open_source
from .step import Step, enable_compile_cache, rollout

__all__ = [
    "Result",
    "Session",
    "Slots",
    "Step",
    "enable_compile_cache",
    "open_source",
    "rollout",
]
