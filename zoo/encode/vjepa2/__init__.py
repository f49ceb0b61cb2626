"""V-JEPA 2."""

NAMES = ("vjepa2-*",)
