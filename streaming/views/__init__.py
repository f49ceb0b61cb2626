"""What models answer, by their task: read, written as JSON, sent, and drawn. One file each."""

from __future__ import annotations

import importlib
from typing import Any

from ...zoo.registry import Card
from ..regions import Regions
from .base import View

__all__ = ["VIEWS", "View", "register_view", "view_class", "view_of"]

# Task of a card -> the class of its view, or where it is: imported on first use. A task that is
# not here has the plain view: its small arrays are sent, and nothing is drawn.
VIEWS: dict[str, str | type[View[Any]]] = {
    "action": "action:ActionView",
    "depth": "depth:DepthView",
    "detect": "detect:DetectView",
    "follow": "follow:FollowView",
    "live": "live:LiveView",
    "matte": "matte:MatteView",
    "pose": "pose:PoseView",
    "track": "track:TrackView",
}


def register_view(task: str, view: type[View[Any]]) -> None:
    """Adds the view of a task. Raises ValueError: it has one."""
    if task in VIEWS:
        raise ValueError(f"task {task!r} has a view already: {VIEWS[task]}")
    VIEWS[task] = view


def view_class(task: str) -> type[View[Any]]:
    """The class of a task's view."""
    found = VIEWS.get(task, View)
    if isinstance(found, str):
        file, name = found.split(":")
        found = vars(importlib.import_module(f".{file}", __package__))[name]
        VIEWS[task] = found
    return found


def view_of(
    card: Card, size: tuple[int, int] | None = None, regions: Regions | None = None
) -> View[Any]:
    """The view of one stream of a model, by the task on its card.

    ``size`` (height, width) of the source; ``regions`` for models that follow.
    """
    return view_class(card.task)(size, regions)
