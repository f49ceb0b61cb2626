"""Depth Anything, first and second version, relative and metric."""

NAMES = ("depthanything-*",)
