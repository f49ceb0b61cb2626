"""How many replicas there should be: a pure function of their load."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ...zoo.ranges import Checked, Positive
from .messages import Load


@dataclasses.dataclass(frozen=True)
class Scaling(Checked):
    """When to grow and when to shrink.

    Attributes:
      high: share of all slots in use above which there are too few replicas.
      low: share that may be in use after shrinking; the gap up to ``high`` keeps it from growing
        again at once.
      queued: frames that wait per session in use, above which a replica is too slow.
      late: latency / budget (99th percentile) above which it is too slow.
    """

    high: Positive = 0.8
    low: Positive = 0.6
    queued: Positive = 4.0
    late: Positive = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.low <= self.high <= 1:
            raise ValueError(f"{self}: 0 < low <= high <= 1, queued and late above 0")


def wanted(
    loads: Sequence[tuple[Load, int]], waiting: int = 0, scaling: Scaling | None = None
) -> int:
    """The number of replicas, at least 1.

    Args:
      loads: of each replica, with its sessions in use.
      waiting: clients that have found no slot.
    """
    scaling, now = scaling or Scaling(), len(loads)
    if now == 0:
        return 1
    slots = max(1.0, sum(load.slots for load, _ in loads) / now)
    demand = sum(used for _, used in loads) + waiting
    need = max(1, _ceil(demand / (slots * scaling.high)))
    if any(_slow(load, used, scaling) for load, used in loads):
        need = max(need, now + 1)
    if need >= now:
        return need
    return min(now, max(1, _ceil(demand / (slots * scaling.low))))


def _ceil(x: float) -> int:
    return math.ceil(x - 1e-9)  # 4 / (5 * 0.8) is 1


def _slow(load: Load, used: int, scaling: Scaling) -> bool:
    return used > 0 and (load.lateness > scaling.late or load.queued > scaling.queued * used)
