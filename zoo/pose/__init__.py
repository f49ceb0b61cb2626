"""Pose: persons and their points in a frame."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .hand.model import HAND_POINTS, HandConfig, Hands
    from .movenet.model import MoveNet, MoveNetConfig
    from .outputs import BONES, POINTS, Pose
    from .palm.model import PALM_POINTS, PalmConfig, PalmDetector

__all__ = [
    "BONES",
    "HAND_POINTS",
    "PALM_POINTS",
    "POINTS",
    "HandConfig",
    "Hands",
    "MoveNet",
    "MoveNetConfig",
    "PalmConfig",
    "PalmDetector",
    "Pose",
]
__getattr__ = on_demand(__name__, __file__)
