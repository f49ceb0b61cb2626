"""SAM 2 and 2.1 on single frames."""

NAMES = ("sam2-*", "sam2.1-*")
