"""Depth of a stream that does not flicker."""

NAMES = ("temporaldepth-*",)
