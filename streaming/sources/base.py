"""What every frame source shares: the frame, the interface, and words for errors.

Sizes are (height, width) throughout, times are seconds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...zoo.preprocess import fitted
from ...zoo.registry import InputSize
from .redaction import scrub

Size = tuple[int, int]
Wanted = Size | Callable[[Size], Size] | None  # the last two of the source's own size


KEYFRAMES = "keyframes"  # reason of a drop: not decoded, because only key frames were


def sized(wanted: Wanted, original: Size) -> Size:
    """The size of the images of a picture of ``original`` size: of a card that letterboxes as much
    of its ``input_size`` as the picture fills."""
    if wanted is None:
        return original
    if isinstance(wanted, InputSize) and wanted.card.fit == "letterbox":
        return fitted(original, wanted)
    return wanted(original) if callable(wanted) else wanted


class SourceError(ValueError):
    """A source that cannot be opened or read; the message names it and the remedy.

    Addresses in the message are redacted, whoever put them there.
    """

    def __init__(self, message: str):
        super().__init__(scrub(message))


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture.

    image: uint8 [h, w, 3] RGB, at the size the source was asked for.
    time: seconds, strictly increasing. Recorded video: the position in the file (pts). Live:
        since the first frame, by the sender's timestamps; an outage counts with its true length.
    index: frames decoded before this one; a live source that drops frames leaves gaps.
    original_size: (height, width) before the resize, as displayed (after rotation).
    received: `time.monotonic()` when the frame left the decoder: subtract it for the latency.
    original: uint8 [H, W, 3] RGB at the original size, if the source was opened with
        `keep_original=True`, else None.
    captured: Unix seconds when it was taken: by the sender's clock where it says (pushed frames),
        else by its timestamps, put on this machine's clock, the fastest frames taken as not
        delayed. Recordings: by the recording's date, or seconds from its start if it has none.
    stream: name of the stream, as given to the source.
    fps: the source's nominal frames per second, None when it does not say.
    """

    image: np.ndarray
    time: float
    index: int
    original_size: Size
    received: float
    original: np.ndarray | None = None
    captured: float = 0.0
    stream: str = ""
    fps: float | None = None

    @property
    def picture(self) -> np.ndarray:
        """What is drawn on: the original where it was kept, else what the model sees."""
        return self.image if self.original is None else self.original


def picture_of(frame: Frame | np.ndarray) -> np.ndarray:
    """The picture of a :class:`Frame`, or the array itself: uint8 [h, w, 3]."""
    return frame.picture if isinstance(frame, Frame) else np.asarray(frame)


class FrameSource:
    """An iterator of `Frame`; close it, or use it as a context manager.

    name: what it reads, for messages; stream: name of the stream, given by the user or `name`.
    fps: nominal frames per second, None when the source does not say.
    size: (height, width) of `Frame.image`.
    frame_count: frames the container announces, None when unknown.
    live: True when frames come whether or not anyone reads them.
    delay: seconds for which a frame is held after its capture (the jitter buffer), 0 for none.
    corrupt: packets or frames that could not be decoded and were skipped.
    warning: one line about damage that did not stop the reading (a file cut short), else None.
    reconnects, stalls, missed: always 0 on recorded video, see `LiveSource`.
    drops: frames that came and were not given, by reason; `dropped` is their sum.
    keyframes_only: set it at any time, from any thread, to decode key frames only; the rest counts
        in `drops["keyframes"]`. Sources without key frames (pushed pictures) do not look at it.
    """

    name: str
    stream: str = ""
    live: bool = False
    delay: float = 0.0
    fps: float | None = None
    size: Size = (0, 0)
    original_size: Size = (0, 0)
    frame_count: int | None = None
    corrupt: int = 0
    reconnects: int = 0
    stalls: int = 0
    missed: int = 0
    warning: str | None = None
    keyframes_only: bool = False

    @property
    def drops(self) -> Mapping[str, int]:
        return {}

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())

    @property
    def state(self) -> str:
        """ "live", or "closed" once nothing more will come."""
        return "live"

    @property
    def over(self) -> bool:
        """Whether a `read` that gave None has reached the end: not if it only waited."""
        state = self.state
        return state == "closed" or (not self.live and state != "stalled")

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame; None at the end, after `close()`, or after `timeout` seconds (live)."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of decoder, threads, file or socket. Calling it again is harmless."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        frame = self.read()
        if frame is None:
            raise StopIteration
        return frame

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without the numbers and the address PyAV puts around them."""
    if type(error).__name__ == "ExitError":  # PyAV's interrupt callback: our own time limit
        return "timed out"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
