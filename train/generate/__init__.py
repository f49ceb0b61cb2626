"""Training of what makes endless video: teacher, causal start, self forcing, distillation.

The student is trained through the carry that it streams with (``zoo.generate.Engine``): the order
that works is a bidirectional teacher (:func:`teacher_loss`), a causal start
(:func:`teacher_forcing_loss`), then rollouts of the student itself (:class:`SelfRollout`) with
:func:`dmd_loss` and a critic (:func:`critic_loss`).
"""

from .clips import frame_times, partition_loss, teacher_forcing_loss, teacher_loss
from .dmd import Scores, critic_loss, dmd_gradient, dmd_loss
from .rollout import SelfRollout, tail_weights
from .windows import WindowRollout

__all__ = [
    "Scores",
    "SelfRollout",
    "WindowRollout",
    "critic_loss",
    "dmd_gradient",
    "dmd_loss",
    "frame_times",
    "partition_loss",
    "tail_weights",
    "teacher_forcing_loss",
    "teacher_loss",
]
