"""Diffusion over time: noise levels, who has which level when, and guidance.

What a stream of generated frames needs beside a network: schedules (:mod:`.flow`), matrices of
levels and partitions (:mod:`.levels`), the stream batch (:mod:`.stream_batch`) with its guidance,
and small laws of papers, each in a file of its own.
"""

from .flow import FlowSchedule, flow_loss, flow_target, mix, shifted
from .guidance import Guidance, guided
from .horizon import HorizonSchedule, stream_actions
from .levels import Partition, StepsPerChunk, per_frame_times
from .motion_noise import MotionNoise
from .similarity import SimilarityFilter
from .stream_batch import StreamBatch, lcm_levels
from .tracks import track_channels

__all__ = [
    "FlowSchedule",
    "Guidance",
    "HorizonSchedule",
    "MotionNoise",
    "Partition",
    "SimilarityFilter",
    "StepsPerChunk",
    "StreamBatch",
    "flow_loss",
    "flow_target",
    "guided",
    "lcm_levels",
    "mix",
    "per_frame_times",
    "shifted",
    "stream_actions",
    "track_channels",
]
