"""Branches under contention: one that is chosen while it runs against one that is fixed.

    python -m streamzoo.streaming.adapt.contention_trial

Simulated: the machine is 1, then 2.5, then 1.5 times as slow as alone, and noisy. The branches are
a what-if: time falls with the pixels, the tokens and the skipped frames, and accuracy with each of
them; it is no measurement of a model.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence

from .branch_scheduler import Branch, BranchScheduler

CONTENTION = ((300, 1.0), (300, 2.5), (300, 1.5))  # (frames, times as slow)


def what_if() -> list[Branch]:
    """Branches of 3 sizes, 2 token budgets, 3 intervals, 2 precisions."""
    found = []
    sizes, precisions = (128, 176, 224), (("fp32", 1.0, 0.0), ("bf16", 0.6, 0.01))
    for size, tokens, every, (name, pace, loss) in itertools.product(
        sizes, (0.5, 1.0), (1, 2, 4), precisions
    ):
        compute = 0.060 * (size / 224) ** 2 * (0.25 + 0.75 * tokens) * pace
        accuracy = 0.80 - 0.10 * (224 - size) / 96 - 0.06 * (1 - tokens) - 0.02 * (every - 1) - loss
        found.append(Branch((size, size), tokens, every, name, accuracy, compute, 0.002))
    return found


@dataclasses.dataclass(frozen=True)
class Run:
    """accuracy: mean over frames; missed: share of the stretches of 8 frames whose mean time is
    above the target."""

    accuracy: float
    missed: float


def drive(
    scheduler: BranchScheduler | Branch, target: float, seed: int,
    contention: Sequence[tuple[int, float]] = CONTENTION,
) -> Run:  # fmt: skip
    """Runs a scheduler, or one branch, through the simulated contention."""
    rng, accuracy, times, index = random.Random(seed), 0.0, [], 0
    for frames, slow in contention:
        for _ in range(frames):
            if isinstance(scheduler, Branch):
                branch, computes = scheduler, index % scheduler.every == 0
            else:
                branch, computes = scheduler.frame("video", index)
            alone = branch.compute if computes else branch.between
            seconds = alone * slow * rng.lognormvariate(0.0, 0.08)
            if computes and not isinstance(scheduler, Branch):
                scheduler.took(seconds)
            accuracy += branch.accuracy
            times.append(seconds)
            index += 1
    stretches = [sum(times[k : k + 8]) / 8 for k in range(0, len(times) - 7, 8)]
    missed = sum(mean > target for mean in stretches) / len(stretches)
    return Run(accuracy / index, missed)


def main() -> None:
    branches = what_if()
    print("accuracy and share of targets missed; fast enough when alone, when slowest, chosen")
    for target in (0.025, 0.040, 0.060):
        alone = [b for b in branches if b.seconds <= target / 1.3]
        careful = [b for b in branches if b.seconds * 2.5 <= target / 1.3]
        fixed = max(alone, key=lambda b: b.accuracy)
        safe = max(careful or [min(branches, key=lambda b: b.seconds)], key=lambda b: b.accuracy)
        runs = [drive(one, target, 0) for one in (fixed, safe, BranchScheduler(branches, target))]
        cells = "   ".join(f"{r.accuracy:.3f}, {r.missed:6.1%}" for r in runs)
        print(f"{1e3 * target:9.0f}  {cells}")


if __name__ == "__main__":
    main()
