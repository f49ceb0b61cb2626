"""RADIO: one encoder of several teachers."""

NAMES = ("radio-*",)
