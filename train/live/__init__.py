"""Training of live models: losses, task, metrics, evaluation and recipe, a file each."""

from .recipe import LiveRecipe
from .task import Live, LiveLoss

__all__ = ["Live", "LiveLoss", "LiveRecipe"]
