"""Signals as streams: convolutions with any padding and stride, spectra, front ends for speech."""

from .attention import Sliding
from .conv import Conv, Transposed
from .emitted import Each, Emitted, Parallel, Series, Signal
from .mel import moonshine_stem, nemo_log_mel, whisper_log_mel
from .spectrum import Frames, OverlapAdd, Resynthesis

__all__ = [
    "Conv", "Each", "Emitted", "Frames", "OverlapAdd", "Parallel", "Resynthesis", "Series",
    "Signal", "Sliding", "Transposed", "moonshine_stem", "nemo_log_mel", "whisper_log_mel",
]  # fmt: skip
