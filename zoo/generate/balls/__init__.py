"""Balls that bounce in a box: a small generator whose video can be measured."""

NAMES = ("balls-*",)
