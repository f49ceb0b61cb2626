"""Pictures that are pushed, as the frames a model wants; and its answers back on the picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation

from ..zoo.picture import Placement, in_picture, picture, placement
from ..zoo.preprocess import fitted
from ..zoo.registry import Card

Size = tuple[int, int]


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [H, W, 3] at another (height, width)."""
    # in swscale, bilinear, as the frame sources do it
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image))
    height, width = size
    made = frame.reformat(width, height, "rgb24", interpolation=Interpolation.BILINEAR)
    return made.to_ndarray()


class Framed(NamedTuple):
    """image: uint8 [h, w, 3], at most the frame's size. place: where the picture lies in the frame;
    None: all of it is all of the frame, or nobody knows."""

    image: np.ndarray
    place: Placement | None

    def told(self, output: Any) -> Any:
        """The answer with its boxes and points as fractions of the picture."""
        return output if self.place is None else in_picture(output, self.place)


class Framing:
    """Pictures of any size -> frames of one size, by the rule of the model's card.

    Only at the card's own size: whoever chooses another one has made the frames for it, and there,
    as for a card without a rule, a picture has to have that size.

    Args:
      size: (height, width) of the model's frames.

    Attributes:
      size: the same; a card's ``InputSize`` if it is that, for ``open_source``.
    """

    def __init__(self, card: Card, size: Size | None = None):
        own = size is None or tuple(size) == tuple(card.input_size)
        self.card = card
        self.size: Size = card.input_size if own or size is None else size
        self._boxed = own and card.fit == "letterbox"
        self._ruled = own and card.own_rule

    def __call__(self, image: Any, original: Size | None = None) -> Framed:
        """Args:
          image: uint8 [H, W, 3].
          original: (height, width) of the picture, if ``image`` was made of it by this rule.

        Raises:
          ValueError: not such an array, or of a size that the rule does not take.
        """
        image = np.asarray(image)
        height, width = self.size
        shape = image.shape[:2]
        fits = shape == self.size or self._boxed or self._ruled
        if image.ndim != 3 or image.shape[2] != 3 or 0 in shape or not fits:
            raise ValueError(
                f"frame {image.shape} should be {(height, width, 3)}: resize it at the source "
                "(open_source(..., size=(h, w)) does)"
            )
        if image.dtype != np.uint8:
            raise ValueError(f"frame is {image.dtype} and should be uint8 RGB, values 0-255")
        if self._boxed:
            size = fitted(shape, self.size)
            if size != shape:
                image = resized(image, size)
            filled = size[1] / width, size[0] / height
            return Framed(image, None if size == self.size else Placement((0.0, 0.0), filled))
        if self._ruled and shape != self.size:
            image, original = picture(image, self.card), shape
        if not self._ruled or original is None or self.card.fit == "stretch":
            return Framed(image, None)
        return Framed(image, placement(self.card, original))

    def put(self, row: np.ndarray, image: np.ndarray) -> None:
        """Writes a framed image into its row [h, w, 3] of a batch."""
        height, width = image.shape[:2]
        if (height, width) != row.shape[:2]:
            row[:] = self.card.fill
        row[:height, :width] = image
