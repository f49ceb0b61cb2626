"""Sound that is loud where it is speech, and what stands in for a detector and a recogniser."""

import numpy as np

from streamzoo.layers.signal.emitted import Emitted
from streamzoo.streaming.listening import RATE
from streamzoo.zoo.speech.saying import Said, Word


class Likely:
    """In place of the voice detector: how loud a block is, as its likelihood of speech."""

    def init_carry(self, batch):
        return ()

    def apply(self, params, carry, audio):
        x = abs(audio).max(axis=-1, keepdims=True)
        return carry, Emitted(x, x > -1, x)


class Counting:
    """In place of a recogniser: a word for every loud 0.2 s, final 0.3 s later."""

    def __init__(self):
        self.samples, self.kept = 0, ()

    def push(self, audio):
        self.samples += len(audio)
        return self._said(self.samples - int(0.3 * RATE))

    def flush(self):
        return self._said(self.samples)

    def _said(self, final):
        step = RATE // 5
        ready, every = max(0, final) // step, self.samples // step
        while len(self.kept) < ready:  # a final word keeps its times
            i = len(self.kept)
            self.kept += (Word(f"w{i}", i * 0.2, i * 0.2 + 0.2, self.samples / RATE),)
        return Said(self.kept, " ".join(f"w{i}" for i in range(ready, every)))


def spoken(*parts):
    """Sound of (seconds, loudness) parts."""
    return np.concatenate([np.full(int(s * RATE), x, np.float32) for s, x in parts])
