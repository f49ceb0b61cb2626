"""Whole streams through signal layers, for tests."""

import jax
import numpy as np


def run(net, variables, x, lengths, valid=None):
    """The frames of each stream of a batch, its end included: [B] of [F, ...]."""
    step = jax.jit(net.apply)
    carry, parts, at = net.init_carry(x.shape[0]), [], 0
    for n in lengths:
        here = None if valid is None else valid[:, at : at + n]
        carry, out = step(variables, carry, x[:, at : at + n], here)
        parts.append(out)
        at += n
    _, rest = jax.jit(lambda c: net.apply(variables, c, method="flush"))(carry)
    parts += [] if rest is None else [rest]
    frames = np.concatenate([np.asarray(p.x) for p in parts], axis=1)
    here = np.concatenate([np.asarray(p.valid) for p in parts], axis=1)
    return [row[mask] for row, mask in zip(frames, here, strict=True)]
