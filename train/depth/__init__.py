"""Training of depth and cameras on drawn worlds: data, tasks, metrics, recipes, a file each."""

from .geometry_recipe import GeometryRecipe
from .geometry_task import GeometryConfig, LearnGeometry
from .recipe import DepthRecipe
from .task import DepthConfig, LearnDepth

__all__ = [
    "DepthConfig", "DepthRecipe", "GeometryConfig", "GeometryRecipe", "LearnDepth", "LearnGeometry",
]  # fmt: skip
