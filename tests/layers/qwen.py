"""Weights of transformers' Qwen3-Next, renamed to those of our layers."""

import numpy as np


def qwen_delta(w, heads, dk, dv):
    """Weights of ``GatedDelta``: the fused projection lies head by head (q, k, v, z)."""
    dim = w["in_proj_ba.weight"].shape[1]
    fused = w["in_proj_qkvz.weight"].reshape(heads, 2 * dk + 2 * dv, dim)
    q, k, v, z = (p.reshape(-1, dim).T for p in np.split(fused, [dk, 2 * dk, 2 * dk + dv], axis=1))
    ba = w["in_proj_ba.weight"].reshape(heads, 2, dim)
    return {
        "qkv": {"kernel": np.concatenate([q, k, v], axis=1)},
        "gate": {"kernel": z},
        "beta": {"kernel": ba[:, 0].T},
        "step": {"kernel": ba[:, 1].T},
        "conv_kernel": w["conv1d.weight"][:, 0].T,
        "log_rate": w["A_log"],
        "step_bias": w["dt_bias"],
        "norm_scale": w["norm.weight"],
        "out": {"kernel": w["out_proj.weight"].T},
    }
