"""DPT, the transformer of MiDaS 3."""

NAMES = ("dpt-*",)
