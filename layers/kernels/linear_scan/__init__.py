"""Diagonal linear recurrence over time."""

from .reference import linear_scan

__all__ = ["linear_scan"]
