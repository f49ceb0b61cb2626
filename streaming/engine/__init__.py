"""The engine: many streams on one accelerator, by deadline, with every frame accounted for."""

from .admission import Refused
from .costs import Costs
from .engine import Engine
from .feed import Feed
from .ledger import Ledger, Snapshot
from .scheduler import Scheduler
from .stream import Answer, Stream, StreamClosed
from .worker import EngineError

__all__ = [
    "Answer",
    "Costs",
    "Engine",
    "EngineError",
    "Feed",
    "Ledger",
    "Refused",
    "Scheduler",
    "Snapshot",
    "Stream",
    "StreamClosed",
]
