"""Metrics of depth, of camera paths, and how much a depth video flickers. Host code.

Sources: Eigen et al. (arXiv 1406.2283) for the metrics of maps; Sturm et al., "A Benchmark for the
Evaluation of RGB-D SLAM Systems" (IROS 2012) for the trajectory error; Umeyama (TPAMI 1991).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class DepthError(NamedTuple):
    """abs_rel, sq_rel, rmse (metres), rmse_log, log10; silog (x 100); d1, d2, d3: share of pixels
    within a factor of 1.25, 1.25^2, 1.25^3. All of them over pixels, of one map or pooled."""

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    log10: float
    silog: float
    d1: float
    d2: float
    d3: float


def depth_error(
    prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
) -> DepthError:
    """Metrics over all pixels of ``mask`` at once: maps of any shape, in metres, above 0.

    RMSE over several maps at once is not the mean of their RMSEs: call it per map for that.

    Raises:
      ValueError: no pixel is left, or depth at one is not above 0.
    """
    mask = np.ones(np.shape(truth), bool) if mask is None else np.asarray(mask, bool)
    p, t = (np.asarray(a, float)[mask] for a in (prediction, truth))
    if not p.size:
        raise ValueError("no pixel has a known depth")
    if not (np.isfinite(p).all() and (p > 0).all() and (t > 0).all()):
        raise ValueError("depth of a pixel in the mask is not a number above 0")
    e, ratio = np.log(p) - np.log(t), np.maximum(p / t, t / p)
    return DepthError(
        float((np.abs(p - t) / t).mean()),
        float(((p - t) ** 2 / t).mean()),
        float(np.sqrt(((p - t) ** 2).mean())),
        float(np.sqrt((e**2).mean())),
        float(np.abs(np.log10(p) - np.log10(t)).mean()),
        float(100 * np.sqrt(max((e**2).mean() - e.mean() ** 2, 0.0))),
        *(float((ratio < 1.25**k).mean()) for k in (1, 2, 3)),
    )


def scale_and_shift(
    prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray
) -> tuple[float, float]:
    """(scale, shift) of the least squares over the mask; (1, 0) where nothing is known."""
    x, y = np.asarray(prediction, float)[mask], np.asarray(truth, float)[mask]
    if x.size < 2 or np.ptp(x) == 0:
        return 1.0, 0.0
    scale, shift = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]
    return float(scale), float(shift)


def flicker(depth: np.ndarray, static: np.ndarray, affine: bool = False) -> float:
    """Mean |d_t - d_{t-1}| over pixels that see the same point in both, relative to the mean depth.

    Args:
      depth: [T, H, W].
      static: bool [T - 1, H, W], of t = 1 on.
      affine: align d_{t-1} to d_t by scale and shift first: what is left is not of the whole map.
    """
    total, count = 0.0, 0
    for before, now, same in zip(depth[:-1], depth[1:], np.asarray(static, bool), strict=True):
        if affine:
            scale, shift = scale_and_shift(before, now, same)
            before = scale * before + shift
        total += float(np.abs(now - before)[same].sum())
        count += int(same.sum())
    if not count:
        raise ValueError("no pixel is static")
    return total / count / float(np.mean(np.abs(depth)))


def trajectory_error(found: np.ndarray, truth: np.ndarray, scale: bool = True) -> float:
    """Root mean square distance of camera centres [T, 3] after the best similarity (``scale``), or
    the best rotation and shift: absolute trajectory error, in the units of ``truth``."""
    a, b = np.asarray(found, float), np.asarray(truth, float)
    a0, b0 = a - a.mean(0), b - b.mean(0)
    u, s, vt = np.linalg.svd(b0.T @ a0)
    sign = np.sign(np.linalg.det(u @ vt))
    s = s * [1, 1, sign]
    rotation = u @ np.diag([1, 1, sign]) @ vt
    size = s.sum() / max((a0**2).sum(), 1e-12) if scale else 1.0
    return float(np.sqrt(((size * a0 @ rotation.T - b0) ** 2).sum(1).mean()))
