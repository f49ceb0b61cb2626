"""Risk against coverage as a picture: how many answers are wrong of those that would be given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .decision import risk_coverage


def draw(path: Path, plain: np.ndarray, decided: np.ndarray, right: np.ndarray, title: str) -> None:
    """Of frames [N], of actions and of others (there no answer is right): the scores of the bare
    probabilities and of a decision, and whether the best class is true."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, score in (("probability alone", plain), ("with the decision", decided)):
        coverage, risk = risk_coverage(score, right)
        axes.plot(coverage, risk, label=f"{name}, area {risk.mean():.3f}")
    axes.set(xlabel="coverage: share of all frames", ylabel="risk: share of them that is wrong")
    axes.set(title=title, xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
