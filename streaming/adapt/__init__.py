"""How much to compute, and how much to send: decisions as small exact values."""

from .bitrate import SaturationRate, knee
from .blocks import balance_blocks
from .branch_scheduler import BranchScheduler
from .branches import Branches, Cadence, choose, frontier
from .channel import Channel, FrameRate, held
from .goodput import Priority, Request, priorities, upper_length, window
from .prefetch import prefetched
from .region_shares import quantiser_offsets, region_budget
from .scale import best_scale, next_scale, scale_target
from .turns import Turns, playout

__all__ = [
    "BranchScheduler",
    "Branches",
    "Cadence",
    "Channel",
    "FrameRate",
    "Priority",
    "Request",
    "SaturationRate",
    "Turns",
    "balance_blocks",
    "best_scale",
    "choose",
    "frontier",
    "held",
    "knee",
    "next_scale",
    "playout",
    "prefetched",
    "priorities",
    "quantiser_offsets",
    "region_budget",
    "scale_target",
    "upper_length",
    "window",
]
