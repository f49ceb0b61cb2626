"""NanoTrack: one object's box, found again in a crop around its last place."""

NAMES = ("nanotrack-*",)
