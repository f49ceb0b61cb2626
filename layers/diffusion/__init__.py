"""Diffusion over time: noise levels, who has which level when, and guidance.

What a stream of generated frames needs beside a network: schedules (:mod:`.flow`), matrices of
levels (:mod:`.levels`), the stream batch (:mod:`.stream_batch`), and small laws of papers.
"""

from .flow import FlowSchedule, flow_loss, flow_target, mix, shifted

__all__ = ["FlowSchedule", "flow_loss", "flow_target", "mix", "shifted"]
