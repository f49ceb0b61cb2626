"""DTLN: speech without its noise, by two stages of LSTMs."""

NAMES = ("dtln",)
