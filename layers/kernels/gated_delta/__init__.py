"""The gated delta rule: a matrix state that decays and corrects what it stores."""

from .reference import gated_delta, gated_delta_recurrent

__all__ = ["gated_delta", "gated_delta_recurrent"]
