"""Training of depth on drawn worlds: data, task, metrics, recipe and shipping, a file each."""

from .recipe import DepthRecipe
from .task import DepthConfig, LearnDepth

__all__ = ["DepthConfig", "DepthRecipe", "LearnDepth"]
