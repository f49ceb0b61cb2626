"""Masks propagated by the similarity of features."""

NAMES = ("tracker-*",)
