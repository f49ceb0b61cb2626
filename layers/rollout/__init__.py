"""Rollouts: what a generator of endless video remembers, reads and makes at a time.

A system is one value, a :class:`Rollout`: an eviction law (:class:`Keep`) x a read list
(:class:`Read`) x a position law x a clean-pass law x a level schedule.
"""

from .keep import Keep
from .levels import Levels
from .policy import ROLLOUTS, Rollout, rollout
from .positions import Absolute, Adjacent, Ahead, Ranked, Regions
from .read import Marks, Read
from .table import Table

__all__ = [
    "ROLLOUTS",
    "Absolute",
    "Adjacent",
    "Ahead",
    "Keep",
    "Levels",
    "Marks",
    "Ranked",
    "Read",
    "Regions",
    "Rollout",
    "Table",
    "rollout",
]
