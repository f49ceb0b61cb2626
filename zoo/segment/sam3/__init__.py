"""SAM 3: every instance of a concept, as masks and boxes."""

NAMES = ("sam3-*",)
