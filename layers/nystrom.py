"""Nystrom attention: linear in the number of tokens, by landmarks.

Source: Xiong et al., "Nystromformer" (arXiv 2102.03902), equations 13 and 14 and figure 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def pseudo_inverse(a: Array, iterations: int = 6, *, per_matrix: bool = False) -> Array:
    """The Moore-Penrose inverse of a [..., M, M] with rows that sum to 1, by iteration.

    Third-order iteration of Razavi et al.; starts from a^T over the largest column sum: of all
    matrices together, as the paper's code does, or ``per_matrix``, which converges faster and
    keeps the streams of a batch apart.
    """
    axes = (-2, -1) if per_matrix else None
    largest = a.sum(axis=-2, keepdims=True).max(axis=axes, keepdims=True)
    z = a.swapaxes(-1, -2) / largest
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    dot = lambda x, y: jnp.matmul(x, y, precision="highest")
    for _ in range(iterations):
        az = dot(a, z)
        z = 0.25 * dot(z, 13 * one - dot(az, 15 * one - dot(az, 7 * one - az)))
    return z


def segment_means(x: Array, landmarks: int) -> Array:
    """x [..., T, D] -> [..., landmarks, D]: means of runs of T / landmarks rows.

    Where landmarks do not divide T, the first T mod landmarks runs are one row longer.
    """
    steps = x.shape[-2]
    if steps % landmarks == 0:
        return x.reshape(*x.shape[:-2], landmarks, -1, x.shape[-1]).mean(axis=-2)
    short, longer = divmod(steps, landmarks)
    cut = longer * (short + 1)
    parts = [
        part.reshape(*x.shape[:-2], -1, size, x.shape[-1]).mean(axis=-2)
        for part, size in ((x[..., :cut, :], short + 1), (x[..., cut:, :], short))
    ]
    return jnp.concatenate(parts, axis=-2)


def nystrom_attention(
    q: Array,
    k: Array,
    v: Array,
    landmarks: int,
    iterations: int = 6,
    conv: Array | None = None,
    *,
    mask: Array | None = None,
    per_matrix: bool = False,
) -> Array:
    """softmax(Q K~') pinv(softmax(Q~ K~')) softmax(Q~ K') V, and optionally a convolution of V.

    Args:
      q, k, v: [B, T, H, D]; scores are scaled by D ** -0.5.
      landmarks: segment means of q and k; T or more: full softmax attention.
      iterations: of :func:`pseudo_inverse`; ``per_matrix`` goes there too.
      conv: [kernel, H] depthwise weights over tokens (cross-correlation, zeros beyond the ends,
        odd kernel), shared by the channels of a head, added to the result.
      mask: [B, T] bool, tokens that may be attended to. Masked ones still take part in the
        landmarks, as in the paper's code.

    Returns:
      [B, T, H, D] in q's type.

    Raises:
      ValueError: landmarks or iterations below 1, or an even kernel.
    """
    if landmarks < 1 or iterations < 1:
        raise ValueError(f"landmarks {landmarks} and iterations {iterations} must be >= 1")
    if conv is not None and conv.shape[0] % 2 == 0:
        raise ValueError(f"conv has {conv.shape[0]} taps; an odd number keeps tokens in place")
    kind = q.dtype
    q, k, v = (x.astype(jnp.float32).swapaxes(1, 2) for x in (q, k, v))  # [B, H, T, D]
    steps, width = q.shape[-2:]
    q, k = q * width**-0.25, k * width**-0.25
    hide = 0.0 if mask is None else jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)[:, None, None]
    scores = lambda a, b: a @ b.swapaxes(-1, -2)
    if landmarks >= steps:
        y = jax.nn.softmax(scores(q, k) + hide, axis=-1) @ v
    else:
        ql, kl = segment_means(q, landmarks), segment_means(k, landmarks)
        spread = jax.nn.softmax(scores(q, kl), axis=-1)
        middle = jax.nn.softmax(scores(ql, kl), axis=-1)
        collect = jax.nn.softmax(scores(ql, k) + hide, axis=-1)
        inverse = pseudo_inverse(middle, iterations, per_matrix=per_matrix)
        y = (spread @ inverse) @ (collect @ v)
    if conv is not None:
        reach = conv.shape[0] // 2
        padded = jnp.pad(v, [(0, 0), (0, 0), (reach, reach), (0, 0)])
        taps = conv.astype(jnp.float32)
        y = y + sum(
            padded[:, :, i : i + steps] * taps[i][:, None, None] for i in range(conv.shape[0])
        )
    return y.swapaxes(1, 2).astype(kind)
