"""DEVA: masks propagated for any detector, and the consensus of its detections."""

NAMES = ("deva",)
