"""A detector and a tracker in one step, and what the persons that they follow do."""

NAMES = ("follow-*",)
