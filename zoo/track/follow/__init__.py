"""A detector and a tracker in one step."""

NAMES = ("follow-*",)
