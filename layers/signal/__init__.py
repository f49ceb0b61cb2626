"""Signals as streams: convolutions with any padding and stride, spectra, front ends for speech."""

from .attention import Sliding
from .bands import BandConv
from .chunks import BlockCausal, Chunks
from .conformer import Conformers
from .conv import Conv, Transposed
from .emitted import Each, Emitted, Parallel, Series, Signal
from .mel import moonshine_stem, nemo_log_mel, whisper_log_mel, whisper_window
from .spectrum import Frames, OverlapAdd, Resynthesis

__all__ = [
    "BandConv", "BlockCausal", "Chunks", "Conformers", "Conv", "Each", "Emitted", "Frames",
    "OverlapAdd", "Parallel", "Resynthesis", "Series", "Signal", "Sliding", "Transposed",
    "moonshine_stem", "nemo_log_mel", "whisper_log_mel", "whisper_window",
]  # fmt: skip
