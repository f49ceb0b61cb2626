"""VideoMAE: the offline teacher, and the stream that recomputes it."""

NAMES = ("videomae-*",)
