"""What a client sends, as a picture of the model's size."""

from __future__ import annotations

import av
import numpy as np

from ...zoo.video import UPRIGHT, of_exif
from ..sources.jpeg import JpegDecoder, check_work, jpeg_size
from ..sources.picture import Resizer
from .limits import Limits, ServeError
from .wire import JPEG, FrameMessage


class Pictures:
    """Decodes and resizes the frames of one client, within its limits.

    Decoding and resize are the sources' own, so that a model sees what it sees elsewhere.
    ``original_size``: (height, width) of the newest frame before the resize, as it is displayed:
    a JPEG turned and mirrored as its EXIF says.
    """

    def __init__(self, size: tuple[int, int], limits: Limits):
        self.size, self._limits = size, limits
        self.original_size: tuple[int, int] | None = None
        self._decode, self._resize = JpegDecoder(limits.pixels), Resizer()

    def __call__(self, frame: FrameMessage) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises ServeError "bad_frame"; any thread, one at a time."""
        if frame.kind == JPEG:
            turned = of_exif(bytes(frame.picture)) or UPRIGHT
            picture = self._jpeg(frame)
            self.original_size = self._resize.size(picture, turned)
            return self._resize(picture, self.size, turned)
        image = self._raw(frame)
        self.original_size = image.shape[:2]
        if image.shape[:2] == self.size:
            return image
        return self._resize(av.VideoFrame.from_ndarray(image, "rgb24"), self.size)

    def _check(self, index: int, height: int, width: int) -> None:
        if not 0 < height * width <= self._limits.pixels:
            raise ServeError(
                "bad_frame",
                f"frame {index} is {height} x {width} pixels; up to {self._limits.pixels} are "
                "taken, send it smaller",
            )

    def _jpeg(self, frame: FrameMessage) -> av.VideoFrame:
        data = bytes(frame.picture)
        try:
            height, width = jpeg_size(data)
            self._check(frame.index, height, width)
            check_work(data, (height, width))
        except ServeError:
            raise
        except ValueError as error:
            raise ServeError("bad_frame", f"frame {frame.index}: {error}") from None
        picture = self._decode(data)
        if picture is None:
            raise ServeError("bad_frame", f"frame {frame.index} is damaged and gives no picture")
        return picture

    def _raw(self, frame: FrameMessage) -> np.ndarray:
        height, width = frame.height, frame.width
        self._check(frame.index, height, width)
        if len(frame.picture) != height * width * 3:
            raise ServeError(
                "bad_frame",
                f"frame {frame.index} has {len(frame.picture)} bytes and {height} x {width} x 3 "
                f"are {height * width * 3}",
            )
        return np.frombuffer(frame.picture, np.uint8).reshape(height, width, 3)
