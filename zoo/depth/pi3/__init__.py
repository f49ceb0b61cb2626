"""Pi3: depth and cameras of views of which none is the first."""

NAMES = ("pi3-*",)
