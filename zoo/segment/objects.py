"""Objects by id: the host's side of a tracker's prompts.

A tracker knows slots; people name objects. :class:`Objects` keeps which id has which slot, builds
:class:`~streamzoo.zoo.segment.stream.Prompts` and refuses what cannot be meant, before anything
runs.

    objects = Objects(module.config)
    objects.click("dog", 310, 420)
    carry, tracks = step(carry, frames, objects.take())    # prompts of this frame, then none
    mask = tracks.masks[0, 0, objects.slot("dog")]
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .prompt import ABSENT, BOTTOM_RIGHT, TOP_LEFT, check_prompts
from .stream import Prompts, no_prompts


class PromptError(ValueError):
    """A prompt that cannot be meant."""


class Objects:
    """Ids and slots of one stream, and the prompts for its next frame.

    Coordinates are pixels of the model's input: (x, y) within ``config.image_size``.
    """

    def __init__(self, config: Any):
        self.config = config
        self.ids: list[Hashable | None] = [None] * config.objects
        self._next: Prompts | None = None

    def slot(self, name: Hashable) -> int:
        """The slot of an object. Raises PromptError for an unknown one, naming those there are."""
        if name is None or name not in self.ids:
            known = ", ".join(repr(i) for i in self.ids if i is not None) or "none yet"
            raise PromptError(
                f"unknown object {name!r}; tracked objects: {known}. A click, box or mask adds one"
            )
        return self.ids.index(name)

    def click(self, name: Hashable, x: float, y: float, label: int = 1) -> None:
        """A point on the object (label 1) or beside it (0). Several in one frame add up."""
        self._points(name, [[x, y]], [label])

    def box(self, name: Hashable, x1: float, y1: float, x2: float, y2: float) -> None:
        """A box around the object, before any click of the same frame."""
        boxes = np.asarray([[[x1, y1, x2, y2]]], np.float32)
        self._refuse(boxes=boxes)
        self._points(name, [[x1, y1], [x2, y2]], [TOP_LEFT, BOTTOM_RIGHT])

    def mask(self, name: Hashable, mask: Any) -> None:
        """The object's mask [H, W] of the model's input size; takes the place of other prompts.

        An empty mask says that the object is not in this frame.
        """
        mask = np.asarray(mask)
        if mask.shape != tuple(self.config.image_size):
            raise PromptError(
                f"mask {list(mask.shape)} for a model that takes {list(self.config.image_size)};"
                " resize it like the frame"
            )
        if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise PromptError(
                f"mask with values {mask.min():g} to {mask.max():g}: give 0 and 1, or bools"
            )
        slot = self._slot_for(name)
        prompts = self._prompts()
        if prompts.masks is None:
            size = (1, 1, self.config.objects, *self.config.image_size)
            prompts = self._next = replace(prompts, masks=np.zeros(size, bool))
        np.asarray(prompts.masks)[0, 0, slot] = mask.astype(bool)
        np.asarray(prompts.masked)[0, 0, slot] = True

    def remove(self, name: Hashable) -> None:
        """Forgets an object; its slot is free for the next one."""
        slot = self.slot(name)
        prompts = self._prompts()
        for field in (prompts.pointed, prompts.masked):
            np.asarray(field)[0, 0, slot] = False
        np.asarray(prompts.labels)[0, 0, slot] = ABSENT
        np.asarray(prompts.remove)[0, 0, slot] = True
        self.ids[slot] = None

    def take(self, *, masks: bool | None = None) -> Prompts:
        """The prompts for the next frame, leaves [1, 1, O, ...]; afterwards there are none.

        masks: room for masks even if there are none (True), so that a step is compiled once.
        """
        prompts, self._next = self._prompts(), None
        if masks and prompts.masks is None:
            c = self.config
            empty = no_prompts(1, 1, c.objects, c.points, c.image_size)
            prompts = replace(prompts, masks=empty.masks)
        return prompts

    def _prompts(self) -> Prompts:
        if self._next is None:
            self._next = no_prompts(1, 1, self.config.objects, self.config.points)
        return self._next

    def _slot_for(self, name: Hashable) -> int:
        if name is None:
            raise PromptError("an object needs a name: a number or a string, not None")
        if name in self.ids:
            return self.ids.index(name)
        if None not in self.ids:
            raise PromptError(
                f"object {name!r} is one too many: this tracker has {len(self.ids)} slots, for"
                f" {', '.join(map(repr, self.ids))}; remove one, or"
                " create_model(name, objects=...)"
            )
        slot = self.ids.index(None)
        self.ids[slot] = name
        return slot

    def _refuse(self, **prompts: Any) -> None:
        try:
            check_prompts(tuple(self.config.image_size), **prompts)
        except ValueError as error:
            raise PromptError(str(error)) from None

    def _points(
        self, name: Hashable, points: Sequence[Sequence[float]], labels: Sequence[int]
    ) -> None:
        new = np.asarray(points, np.float32)
        self._refuse(points=new[None, None], labels=np.asarray(labels, np.int32)[None, None])
        prompts = self._prompts()
        used = 0
        if name is not None and name in self.ids:
            mine = np.asarray(prompts.labels)[0, 0, self.ids.index(name)]
            used = int((mine != ABSENT).sum())
        if used + len(new) > self.config.points:
            raise PromptError(
                f"{used + len(new)} points (a box counts two) for object {name!r} in one frame:"
                f" this tracker has room for {self.config.points};"
                " create_model(name, points=...)"
            )
        slot = self._slot_for(name)
        all_labels = np.asarray(prompts.labels)[0, 0, slot]
        all_points = np.asarray(prompts.points)[0, 0, slot]
        corners = labels[0] == TOP_LEFT
        at = 0 if corners else used
        if corners:  # corners come first, as in training
            all_points[2 : used + 2] = all_points[:used].copy()
            all_labels[2 : used + 2] = all_labels[:used].copy()
        all_points[at : at + len(new)] = new
        all_labels[at : at + len(new)] = labels
        np.asarray(prompts.pointed)[0, 0, slot] = True
