"""Fewer bits: weights, activations, keys and values as codes, and the rotations that help them.

Pure functions, a file per scheme; ``box.Quantised`` puts their codes in a parameter's place.
"""
