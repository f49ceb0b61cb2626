"""How long a step takes at each padded batch size: measured, kept current, saved as JSON."""

from __future__ import annotations

import bisect
import json
import math
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

WINDOW = 64  # the newest samples per bucket that are believed


class Costs:
    """{bucket: seconds of recent steps}. A bucket is a batch size that is compiled.

    ``mean`` is for throughput, ``high`` (95th percentile) for promises.
    """

    def __init__(self, samples: Mapping[int, Sequence[float]]):
        """Raises ValueError: no bucket, one below 1, or a time that is not above 0."""
        if not samples:
            raise ValueError("costs without a bucket; give {batch size: [seconds, ...]}")
        self._samples: dict[int, deque[float]] = {}
        self._mean: dict[int, float] = {}
        self._high: dict[int, float] = {}
        for bucket in sorted(samples):
            times = list(samples[bucket])
            if bucket < 1 or not times or not all(0 < t < math.inf for t in times):
                raise ValueError(
                    f"costs of bucket {bucket}: {times[:4]}; a bucket is at least 1 "
                    "and its times are seconds above 0"
                )
            self._samples[bucket] = deque(times, maxlen=max(WINDOW, len(times)))
            self._update(bucket)
        self.buckets: tuple[int, ...] = tuple(self._samples)

    def _update(self, bucket: int) -> None:
        ordered = sorted(self._samples[bucket])
        self._mean[bucket] = sum(ordered) / len(ordered)
        self._high[bucket] = ordered[math.ceil(0.95 * len(ordered)) - 1]

    def add(self, bucket: int, seconds: float) -> None:
        """One more measured step; the oldest sample is forgotten."""
        self._samples[bucket].append(seconds)
        self._update(bucket)

    def mean(self, bucket: int) -> float:
        return self._mean[bucket]

    def high(self, bucket: int) -> float:
        return self._high[bucket]

    def sample(self, bucket: int, rng: random.Random) -> float:
        """One of the measured times, at random."""
        return rng.choice(self._samples[bucket])

    @property
    def largest(self) -> int:
        return self.buckets[-1]

    def bucket(self, count: int) -> int:
        """The smallest bucket with room for ``count`` streams, at most the largest."""
        return self.buckets[min(bisect.bisect_left(self.buckets, count), len(self.buckets) - 1)]

    def chunks(self, count: int, bucket: int) -> list[int]:
        """Buckets that serve ``count`` frames in steps of ``bucket``, the rest in what fits it."""
        full, rest = divmod(count, bucket)
        return [bucket] * full + ([self.bucket(rest)] if rest else [])

    def cheapest(self, count: int, high: bool = False) -> float:
        """Seconds of the fastest way to serve a frame of each of ``count`` streams."""
        seconds = self._high if high else self._mean
        return min(sum(seconds[c] for c in self.chunks(count, b)) for b in self.buckets)

    def save(self, path: str | Path) -> None:
        """JSON: {"seconds": {"1": [...], ...}}."""
        seconds = {str(b): [round(t, 7) for t in times] for b, times in self._samples.items()}
        Path(path).write_text(json.dumps({"seconds": seconds}, indent=1) + "\n")

    @classmethod
    def linear(cls, base: float, per_stream: float, buckets: Iterable[int]) -> Costs:
        """A what-if, not a measurement: base + per_stream * bucket seconds, always the same."""
        return cls({b: [base + per_stream * b] for b in buckets})

    @classmethod
    def load(cls, source: str | Path) -> Costs:
        """From a JSON file (see :meth:`save`), or "linear:BASE,PER" in milliseconds.

        Raises:
          ValueError: neither a readable file nor a linear what-if.
        """
        text = str(source)
        try:
            if text.startswith("linear:"):
                base, per = (float(v) / 1e3 for v in text.removeprefix("linear:").split(","))
                return cls.linear(base, per, (1, 2, 4, 8, 16, 32, 64))
            seconds = json.loads(Path(text).read_text())["seconds"]
            return cls({int(b): [float(t) for t in times] for b, times in seconds.items()})
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"costs {text!r}: {error}; give a JSON file "
                '{"seconds": {"1": [0.004, ...], "8": [...]}}, or linear:BASE,PER in milliseconds '
                "such as linear:4,0.5"
            ) from error
