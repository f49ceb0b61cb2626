"""Building blocks. Axis legend for the whole package:

B batch (streams), T frames, N tokens per frame, D width, H heads, L depth, K boxes or keys,
C classes, h w grid of patches, M any product of leading axes.
"""
