"""Following many objects that a detector finds: ids that last."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .appearance import box_features
    from .follow.act import ActingTracks, FollowAct, FollowActConfig, FollowActState
    from .follow.model import Follow, FollowConfig, FollowState
    from .outputs import Tracks
    from .tracker import BoxTracker, TrackerConfig, TrackState

__all__ = [
    "ActingTracks",
    "BoxTracker",
    "Follow",
    "FollowAct",
    "FollowActConfig",
    "FollowActState",
    "FollowConfig",
    "FollowState",
    "TrackState",
    "TrackerConfig",
    "Tracks",
    "box_features",
]
__getattr__ = on_demand(__name__, __file__)
