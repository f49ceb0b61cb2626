"""Training of trackers: losses, task, metrics, evaluation and recipe, a file each."""

from .recipe import TRUNK, TrackRecipe, with_trunk
from .task import Track, TrackConfig

__all__ = ["TRUNK", "Track", "TrackConfig", "TrackRecipe", "with_trunk"]
