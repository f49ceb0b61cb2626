"""Cutie: masks tracked with an object memory beside that of pixels."""

NAMES = ("cutie-*",)
