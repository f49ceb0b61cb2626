"""The bitrate of video that a model watches: no more than it can use.

A person sees every bit; a model's accuracy saturates. What is above the knee of that curve only
fills queues, so it stays free for when the network gets worse.

Source: Artic, "response-capability-aware adaptive bitrate" (named in the benchmark DeViBench; the
rule min(estimate, knee) is what is public: github.com/pku-netvideo/DeViBench has no code of it).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


def knee(rates: Sequence[float], accuracy: Sequence[float], loss: float = 0.01) -> float:
    """The smallest bitrate whose accuracy is within ``loss`` of the best, between the points that
    were measured in a straight line.

    Raises:
      ValueError: rates that do not rise, or different numbers of them.
    """
    if (
        len(rates) != len(accuracy)
        or not rates
        or any(b <= a for a, b in zip(rates, rates[1:], strict=False))
    ):
        raise ValueError("give a rising list of bitrates and the accuracy at each")
    wanted = max(accuracy) - loss
    at = next(k for k, value in enumerate(accuracy) if value >= wanted)
    if at == 0:
        return rates[0]
    share = (wanted - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return rates[at - 1] + share * (rates[at] - rates[at - 1])


@dataclasses.dataclass
class SaturationRate:
    """Bits per second to send, from estimates of what the network carries.

    Attributes:
      knee: bits per second after which the model's accuracy does not rise (:func:`knee`).
      floor: bits per second below which nothing useful can be sent.
      safety: share of the estimate that is used.
      rise: largest factor from one decision to the next; falling is at once.
    """

    knee: float
    floor: float = 50e3
    safety: float = 0.9
    rise: float = 1.25
    _last: float | None = None

    def __post_init__(self):
        if not (0 < self.floor <= self.knee and 0 < self.safety <= 1 and self.rise > 1):
            raise ValueError(f"{self}: 0 < floor <= knee, safety is a share, rise above 1")

    def __call__(self, estimate: float) -> float:
        """The rate while the network is estimated to carry ``estimate`` bits per second."""
        rate = min(self.safety * estimate, self.knee)
        if self._last is not None:
            rate = min(rate, self.rise * self._last)
        self._last = max(rate, self.floor)
        return self._last
