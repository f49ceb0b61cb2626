"""Hadamard matrices of the widths that models have, and products with them in n log n.

An n is taken apart into 2^p K, where K is 1 or the smallest order that Paley's construction gives
(12, 20, 28, ...), or a product of two such (336 = 12 x 28).

Source: R. E. A. C. Paley, "On orthogonal matrices" (1933); the fast product is that of
facebookresearch/SpinQuant, ``utils/hadamard_utils.py`` (Liu et al., arXiv 2405.16406).
"""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np

from ..streaming import Array


def _prime_power(q: int) -> tuple[int, int] | None:
    p = next((d for d in range(2, q + 1) if q % d == 0), 0)
    power = 0
    while p and q % p == 0:
        q, power = q // p, power + 1
    return (p, power) if q == 1 and power else None


# Monic irreducible polynomials over GF(p), coefficients from the constant on: fields of p^k
_IRREDUCIBLE = {(3, 3): (1, 2, 0), (5, 2): (2, 0), (3, 2): (1, 0), (7, 2): (1, 0)}


def _character(q: int) -> np.ndarray | None:
    """The matrix of chi(a - b) over the elements of GF(q): 1 for squares, -1 for others, 0."""
    found = _prime_power(q)
    if found is None or (found[1] > 1 and found not in _IRREDUCIBLE):
        return None
    p, power = found
    elements = list(itertools.product(range(p), repeat=power))
    place = {element: i for i, element in enumerate(elements)}

    def times(a, b):
        total = [0] * (2 * power - 1)
        for i, j in itertools.product(range(power), repeat=2):
            total[i + j] += a[i] * b[j]
        for high in range(2 * power - 2, power - 1, -1):  # x^k = -(the rest of the polynomial)
            for i, c in enumerate(_IRREDUCIBLE[found]):
                total[high - power + i] -= total[high] * c
        return tuple(c % p for c in total[:power])

    chi = np.full(q, -1)
    chi[[place[times(e, e)] for e in elements]] = 1
    chi[place[(0,) * power]] = 0
    apart = lambda a, b: place[tuple((x - y) % p for x, y in zip(a, b, strict=True))]
    return np.array([[chi[apart(a, b)] for b in elements] for a in elements])


@functools.cache
def _paley(n: int) -> np.ndarray | None:
    """Order n by Paley's first construction, n - 1 = 3 mod 4, or his second, n / 2 - 1 = 1."""
    if n % 4:
        return None
    if (n - 1) % 4 == 3 and (chi := _character(n - 1)) is not None:
        skew = np.zeros((n, n), int)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, chi
        return np.eye(n, dtype=int) + skew
    half = n // 2
    if (half - 1) % 4 == 1 and (chi := _character(half - 1)) is not None:
        even = np.zeros((half, half), int)
        even[0, 1:], even[1:, 0], even[1:, 1:] = 1, 1, chi
        return np.kron(even, [[1, 1], [1, -1]]) + np.kron(
            np.eye(half, dtype=int), [[1, -1], [-1, -1]]
        )
    return None


@functools.cache
def base(n: int) -> np.ndarray:
    """The K x K factor of order n = 2^p K, entries 1 and -1.

    Raises:
      ValueError: no such matrix is known to us.
    """
    odd = n & -n
    if odd == n:
        return np.ones((1, 1), int)
    order = n // odd * 4
    while n % order == 0:
        if (found := _paley(order)) is not None:
            return found
        order *= 2
    for first in range(12, int(n**0.5) + 1, 4):
        if n % first:
            continue
        if (a := _paley(first)) is not None and (b := _paley(n // first)) is not None:
            return np.kron(a, b)
    raise ValueError(
        f"no Hadamard matrix of order {n}: 2^p times 1, 12, 20, 28, ... has one; rotate this axis"
        " by a random orthogonal matrix, or in blocks"
    )


def hadamard(n: int) -> np.ndarray:
    """Orthogonal H [n, n], entries +-1 / sqrt(n): base(n) (x) Sylvester's matrix."""
    matrix = base(n)
    while len(matrix) < n:
        matrix = np.kron(matrix, [[1, 1], [1, -1]])
    return matrix / np.sqrt(n)


def transform(x: Array, factor: np.ndarray | None = None) -> Array:
    """H x along the last axis, in fp32: x [..., n] -> [..., n].

    ``factor``: a K x K Hadamard matrix in place of ``base(n)``.
    """
    n = x.shape[-1]
    first = base(n) if factor is None else factor
    k = len(first)
    y, width = x.astype(jnp.float32), n // k
    step = width
    while step > 1:
        step //= 2
        pairs = y.reshape(*x.shape[:-1], -1, 2, step)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = jnp.stack([a + b, a - b], axis=-2)
    y = y.reshape(*x.shape[:-1], k, width)
    if k > 1:
        y = jnp.einsum("ij,...jw->...iw", jnp.asarray(first, jnp.float32), y, precision="highest")
    return y.reshape(x.shape) * np.float32(n**-0.5)
