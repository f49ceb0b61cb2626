"""EdgeTAM."""

NAMES = ("edgetam-*",)
