"""Cameras, point maps and similarities: what depth and reconstruction have in common.

Cameras look along +z, x is right, y is down; pixel (u, v) of a picture of W x H has its principal
point at (W / 2, H / 2). A pose is camera to world, 4 x 4.
"""
