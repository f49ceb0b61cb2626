"""GTCRN: speech without its noise, by a very small network of the spectrum."""

NAMES = ("gtcrn",)
