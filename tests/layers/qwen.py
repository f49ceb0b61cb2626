"""Weights of transformers' Qwen3-Next, renamed to those of our layers."""

import numpy as np


def qwen_delta(w, heads, dk, dv, keys=None):
    """Weights of ``GatedDelta``: the fused projections lie key head by key head (q, k, and the v
    and z of the value heads that it serves)."""
    keys = keys or heads
    dim, wide = w["in_proj_ba.weight"].shape[1], heads // keys * dv
    fused = w["in_proj_qkvz.weight"].reshape(keys, 2 * dk + 2 * wide, dim)
    cut = [dk, 2 * dk, 2 * dk + wide]
    q, k, v, z = (p.reshape(-1, dim).T for p in np.split(fused, cut, axis=1))
    beta, step = np.split(w["in_proj_ba.weight"].reshape(keys, -1, dim), 2, axis=1)
    return {
        "qkv": {"kernel": np.concatenate([q, k, v], axis=1)},
        "gate": {"kernel": z},
        "beta": {"kernel": beta.reshape(-1, dim).T},
        "step": {"kernel": step.reshape(-1, dim).T},
        "conv_kernel": w["conv1d.weight"][:, 0].T,
        "log_rate": w["A_log"],
        "step_bias": w["dt_bias"],
        "norm_scale": w["norm.weight"],
        "out": {"kernel": w["out_proj.weight"].T},
    }
