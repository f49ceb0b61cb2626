"""Sink and window attention over a ring of un-rotated keys and values."""

from .reference import Ring, init_ring, ring_attention

__all__ = ["Ring", "init_ring", "ring_attention"]
