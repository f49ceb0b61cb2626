"""A wireless channel that loses and delays, and video that goes on without what it lost.

The channel has two states, as Gilbert's and Elliott's: in the bad one it loses much; losses come in
bursts. It carries so many bits per second; what waits longer than its queue is lost.

Source of the frame rate's idea: Artic's loss-resilient adaptive frame rate. A frame that is lost
or late is not sent again: the one before it stands in, and a higher rate makes it a younger one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


class Channel:
    """Sends packets of bits; the same seed loses the same ones.

    Args:
      rate: bits per second.
      delay: seconds on the way, beside waiting and sending.
      queue: seconds that a packet may wait to be sent.
      loss: share lost in the good and in the bad state.
      worsens, recovers: chance per packet to go to the other state.
    """

    def __init__(
        self,
        rate: float,
        delay: float = 0.02,
        queue: float = 0.2,
        loss: tuple[float, float] = (0.0, 0.5),
        worsens: float = 0.0,
        recovers: float = 0.2,
        seed: int = 0,
    ):
        shares = (*loss, worsens, recovers)
        if not (rate > 0 and delay >= 0 <= queue and all(0 <= s <= 1 for s in shares)):
            raise ValueError(f"rate={rate}, delay={delay}, queue={queue}, shares {shares}")
        self.rate, self.delay, self.queue, self.loss = rate, delay, queue, loss
        self.worsens, self.recovers = worsens, recovers
        self.bad, self._free, self._rng = False, 0.0, random.Random(seed)

    @property
    def mean_loss(self) -> float:
        """Share that is lost on the long run, without the queue."""
        both = self.worsens + self.recovers
        bad = self.worsens / both if both else 0.0
        return (1 - bad) * self.loss[0] + bad * self.loss[1]

    def send(self, bits: float, now: float) -> float | None:
        """When a packet sent at ``now`` arrives; None if it is lost. ``now`` never falls."""
        turn, lost = self._rng.random(), self._rng.random()
        self.bad = turn >= self.recovers if self.bad else turn < self.worsens
        begins = max(now, self._free)
        if begins - now > self.queue:
            return None
        self._free = begins + bits / self.rate
        if lost < self.loss[self.bad]:
            return None  # it took its time on the air, all the same
        return self._free + self.delay


def held(arrivals: Sequence[float | None], deadlines: Sequence[float]) -> list[int]:
    """For each frame the number of the one that stands for it: the newest that was there in time.

    -1 before the first. A frame that comes late serves those after it, not its own time.
    """
    found, newest = [], -1
    for deadline in deadlines:
        there = [k for k, at in enumerate(arrivals) if at is not None and at <= deadline]
        newest = max(there, default=newest)
        found.append(newest)
    return found


class FrameRate:
    """Frames per second under loss: as many as it takes that a frame is there in time, no more.

    With independent losses of share p, f frames per second leave no frame in ``age`` seconds with a
    chance of p ** (f * age). The rate is the smallest whose chance is at most ``risk``, within
    what the bits allow.

    Args:
      base, most: frames per second without loss, and at most.
      age: seconds that what is shown may be old.
      risk: chance that it is older.
      smallest: bits of the smallest useful frame.
    """

    def __init__(
        self, base: float = 5.0, most: float = 30.0, age: float = 0.4, risk: float = 0.01,
        smallest: float = 8e3, memory: float = 0.95,
    ):  # fmt: skip
        if not (0 < base <= most and age > 0 and 0 < risk < 1 and 0 <= memory < 1):
            raise ValueError(f"base={base}, most={most}, age={age}, risk={risk}")
        self.base, self.most, self.age, self.risk = base, most, age, risk
        self.smallest, self.memory, self.lost = smallest, memory, 0.0

    def saw(self, arrived: bool) -> None:
        """A frame arrived in time, or did not."""
        self.lost = self.memory * self.lost + (1 - self.memory) * (not arrived)

    def __call__(self, bits_per_second: float) -> float:
        """Frames per second to send now."""
        wanted = self.base
        if self.lost >= 1:
            wanted = self.most
        elif self.lost > 0:
            wanted = max(wanted, math.log(self.risk) / math.log(self.lost) / self.age)
        allowed = max(bits_per_second / self.smallest, 1.0)
        return min(wanted, self.most, allowed)
