"""Live models that look across streams: HRM and TRM."""

NAMES = ("live-*",)
