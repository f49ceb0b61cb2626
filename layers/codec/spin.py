"""Rotations that leave a network as it is and its channels without outliers.

With orthogonal R1 on the residual stream, every reader's kernel becomes R1^T K and every writer's
K R1; R2 turns the values of a head and is undone by the output kernel; R4 is a Hadamard product in
front of the second MLP kernel, whose inverse is in that kernel. Rows are vectors here: x R.

A norm stands between. RMSNorm without its gain commutes with any rotation; LayerNorm without gain
and bias with those that keep the vector of ones (:func:`keeping_ones`), and where the residual
stream has no mean (:func:`centre`) it *is* RMSNorm. A temporal shift moves some channels of the
stream by a frame, so R1 must be block-diagonal there; it also mixes the means of two frames, which
:func:`centre` cannot take out: blocks that keep their own ones are what is exact.

Source: Liu et al., "SpinQuant" (arXiv 2405.16406); Li et al., "Efficient Riemannian Optimization
on the Stiefel Manifold via the Cayley Transform" (arXiv 2002.01113).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..streaming import Array
from .hadamard import hadamard


def reader(kernel: Array, rotation: Array) -> Array:
    """[..., D, O] for inputs x R: R^T K."""
    return jnp.einsum("ji,...jo->...io", rotation, kernel, precision="highest")


def writer(kernel: Array, rotation: Array) -> Array:
    """[..., I, D] or a bias [..., D] whose outputs become y R."""
    return jnp.einsum("...i,ij->...j", kernel, rotation, precision="highest")


def heads_written(kernel: Array, rotations: Array) -> Array:
    """A value kernel [..., I, H Dh] or bias [..., H Dh], each head turned by its own R2
    [H, Dh, Dh]."""
    parts = kernel.reshape(*kernel.shape[:-1], *rotations.shape[:2])
    turned = jnp.einsum("...hd,hde->...he", parts, rotations, precision="highest")
    return turned.reshape(kernel.shape)


def heads_read(kernel: Array, rotations: Array) -> Array:
    """The output kernel [..., H Dh, O] behind :func:`heads_written`."""
    parts = kernel.reshape(*kernel.shape[:-2], *rotations.shape[:2], kernel.shape[-1])
    turned = jnp.einsum("hde,...hdo->...heo", rotations, parts, precision="highest")
    return turned.reshape(kernel.shape)


def hadamard_read(kernel: Array) -> Array:
    """A kernel [..., I, O] for inputs that come as ``hadamard.transform(x)``: H K, in fp64 once."""
    matrix = hadamard(kernel.shape[-2])
    return jnp.asarray(matrix @ np.asarray(kernel, np.float64), kernel.dtype)


def fold_norm(scale: Array, bias: Array | None, kernel: Array, shift: Array | None):
    """(kernel, bias) of a reader [D, O] that takes a norm's gain and bias over: the norm then has
    none."""
    own = jnp.zeros(kernel.shape[-1], kernel.dtype) if shift is None else shift
    if bias is not None:
        own = own + jnp.einsum("...d,...do->...o", bias, kernel, precision="highest")
    return scale[..., None] * kernel, own


def centre(kernel: Array) -> Array:
    """A writer's kernel [..., I, D] or bias [..., D] without its mean over channels: where every
    writer is centred, LayerNorm is RMSNorm."""
    return kernel - kernel.mean(-1, keepdims=True)


def keeping_ones(rotation: np.ndarray) -> np.ndarray:
    """The orthogonal matrix R P with (1 .. 1) R P = (1 .. 1), P a reflection: mean and LayerNorm
    commute with it, and it spreads an outlier as R does."""
    n = len(rotation)
    ones = np.full(n, n**-0.5)
    away = ones @ rotation - ones
    size = away @ away
    if size < 1e-24:
        return rotation
    return rotation - 2 * np.outer(rotation @ away, away) / size


def random_rotation(n: int, seed: int = 0, ones: bool = False) -> np.ndarray:
    """[n, n]: a Hadamard matrix with random signs, or where there is none a random orthogonal one;
    fp64. ``ones``: that keeps the vector of ones."""
    rng = np.random.default_rng(seed)
    try:
        turned = rng.choice([-1.0, 1.0], n)[:, None] * hadamard(n)
    except ValueError:
        q, r = np.linalg.qr(rng.standard_normal((n, n)))
        turned = q * np.sign(np.diag(r))
    return keeping_ones(turned) if ones else turned


def block_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """One rotation of several, each of its own channels."""
    whole = np.zeros((sum(map(len, blocks)),) * 2)
    start = 0
    for block in blocks:
        whole[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return whole


def cayley_step(rotation: Array, gradient: Array, rate: float, sweeps: int = 5) -> Array:
    """One step of gradient descent among orthogonal matrices [n, n].

    A fixed-point iteration of the Cayley transform, so that an error of orthogonality is left:
    :func:`again_orthogonal` is due now and then (in the reference at random, once in 101 steps).
    """
    rows = rotation / jnp.linalg.norm(rotation, axis=1, keepdims=True)
    down = -gradient.T
    moved = down @ rows
    hat = moved - rows.T @ (rows @ moved) / 2
    skew = hat - hat.T
    # beyond this step the iteration does not contract
    step = jnp.minimum(rate, 1 / (jnp.abs(skew).sum(0).max() + 1e-8))
    turned = rows.T + step * down
    for _ in range(sweeps):
        turned = rows.T + step * (skew @ (rows.T + turned)) / 2
    return turned.T


def again_orthogonal(rotation: Array) -> Array:
    """The nearest such matrix by QR, diagonal of R positive."""
    q, r = jnp.linalg.qr(rotation)
    return q * jnp.sign(jnp.diagonal(r))


def kurtosis(x: Array) -> Array:
    """Mean over tokens of the channels' fourth standardised moment: 3 of a normal distribution,
    up to D of one outlier."""
    apart = x - x.mean(-1, keepdims=True)
    return ((apart**4).mean(-1) / jnp.maximum((apart**2).mean(-1) ** 2, 1e-30)).mean()


def learn_rotation(
    rotation: np.ndarray, loss, steps: int = 20, rate: float = 1.5
) -> tuple[np.ndarray, list[float]]:
    """(rotation after ``steps`` Cayley steps down loss(rotation), the losses before each)."""
    descend = jax.jit(jax.value_and_grad(loss))
    here, losses = jnp.asarray(rotation, jnp.float32), []
    for _ in range(steps):
        value, gradient = descend(here)
        losses.append(float(value))
        here = again_orthogonal(cayley_step(here, gradient, rate))
    return np.asarray(here), losses
