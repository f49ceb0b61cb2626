"""Writes ``data/dust3r.npz``, ``dust3r_linear.npz``, ``mast3r.npz`` and ``dust3r_tree.npz``.

    git clone --recursive https://github.com/naver/mast3r
    pip install roma opencv-python-headless
    python -m tests.parity.golden_dust3r mast3r

The classes and the spanning tree are the repository's; its licence is CC BY-NC-SA 4.0, so that only
their answers are here.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from .golden import DATA, fill, write
from .harness import images, mend_torchvision, to_torch

SIZE = {"dust3r": (48, 64), "dust3r_linear": (32, 48), "mast3r": (48, 64)}  # rows of 3: odd maps
WIDTH = {"enc_embed_dim": 32, "enc_num_heads": 2, "dec_embed_dim": 48, "dec_num_heads": 3}
# a DPT head of the repository wants ten blocks at least
DEPTH = {"dust3r": (2, 10), "dust3r_linear": (2, 3), "mast3r": (1, 10)}
SPECIAL = {
    r".*head\.4\.weight": (0.0, 0.015),  # points are exponentials
    r"downstream_head\d\.proj\.weight": (0.0, 0.03),
    r".*head_local_features\.fc2\.weight": (0.0, 0.05),
}
NECK = {"feature_dim": 24, "last_dim": 16, "layer_dims": [8, 12, 16, 20]}  # far wider there
TREE = (4, 6, 8)  # views, rows, columns


def config(name: str) -> dict[str, Any]:
    """What the classes are made with."""
    height, width = SIZE[name]
    depth, decoder = DEPTH[name]
    linear = name.endswith("linear")
    mast3r = name == "mast3r"
    own: dict[str, Any] = {"desc_conf_mode": ("exp", 0, np.inf), "two_confs": True}
    return {
        **WIDTH,
        **(own if mast3r else {}),
        "pos_embed": "RoPE100",
        "img_size": (height, width),
        "head_type": "catmlp+dpt" if mast3r else "linear" if linear else "dpt",
        "output_mode": "pts3d+desc24" if mast3r else "pts3d",
        "depth_mode": ("exp", -np.inf, np.inf),
        "conf_mode": ("exp", 1, np.inf),
        "enc_depth": depth,
        "dec_depth": decoder,
        "landscape_only": False,
    }


def pairs() -> dict[str, np.ndarray]:
    """Noisy point maps of every pair of some views, as :class:`view_graph.Pairs` has them."""
    count, height, width = TREE
    rng = np.random.RandomState(7)
    shape = (count, count, height, width)
    points = rng.standard_normal((count, height, width, 3)) + [0, 0, 4]
    noise = lambda: points + 0.05 * rng.standard_normal((*shape, 3))
    own = noise()
    other = noise().swapaxes(0, 1)
    scale = rng.uniform(0.5, 2.0, (count, count, 1, 1, 1))
    certain = lambda: 1 + rng.uniform(0.1, 3.0, (count, count, 1, 1)) * rng.uniform(0, 1, shape)
    found = {"own": scale * own.swapaxes(0, 1), "other": scale * other.swapaxes(0, 1)}
    found |= {"own_sure": certain(), "other_sure": certain()}
    return {k: v.astype(np.float32) for k, v in found.items()}


def descriptors(x: Any) -> Any:
    """Those [B, H, W, K] of the pixels that are stored."""
    return x[:, 1::5, 2::7]


def answers(name: str, network: Any) -> dict[str, np.ndarray]:
    """Of two views; descriptors of some pixels only."""
    frames = to_torch(images(*SIZE[name], batch=1, frames=2))
    views = [{"img": frames[:, k], "instance": [str(k)]} for k in (0, 1)]
    first, second = network(*views)
    second["pts3d"] = second.pop("pts3d_in_other_view")
    found = {}
    for k, said in enumerate((first, second)):
        found[f"points{k}"], found[f"sure{k}"] = said["pts3d"], said["conf"]
        if "desc" in said:
            found[f"descriptors{k}"] = descriptors(said["desc"])
            found[f"descriptors_sure{k}"] = said["desc_conf"]
    return {k: v.detach().numpy() for k, v in found.items()}


def tree() -> dict[str, Any]:
    """The points of the repository's spanning tree."""
    import torch

    module: Any = importlib.import_module("dust3r.cloud_opt.init_im_poses")
    given = {k: torch.from_numpy(v) for k, v in pairs().items()}
    count, *size = TREE
    edges = [(i, j) for i in range(count) for j in range(count) if i != j]
    each = lambda key: {f"{i}_{j}": given[key][i, j] for i, j in edges}
    points, chosen, _, _ = module.minimum_spanning_tree(
        [tuple(size)] * count, edges, each("own"), each("other"), each("own_sure"),
        each("other_sure"), None, 0.0, "cpu", has_im_poses=False, verbose=False,
    )  # fmt: skip
    return {"points": torch.stack(points).numpy(), "edges": np.asarray(chosen)}


def main(checkout: str) -> None:
    import torch

    sys.path.insert(0, checkout)
    mend_torchvision()
    mast3r: Any = importlib.import_module("mast3r.model")
    heads: Any = importlib.import_module("dust3r.heads.dpt_head")
    adapter = heads.DPTOutputAdapter_fix
    heads.DPTOutputAdapter_fix = lambda **given: adapter(**{**given, **NECK})
    for name in SIZE:
        build = mast3r.AsymmetricMASt3R
        build = build if name == "mast3r" else mast3r.AsymmetricCroCo3DStereo
        network = build(**config(name)).eval()
        with torch.no_grad():
            # the second name of the same convolutions is not stored
            del_twins(network)
            shapes = fill(network, SPECIAL, ("mask_token",))
            write(name, shapes, answers(name, network))
    np.savez_compressed(DATA / "dust3r_tree.npz", **tree())


def del_twins(network: Any) -> None:
    """Lets a head's convolutions be found under one name; a list that is no module keeps them."""
    for head in (network.downstream_head1, network.downstream_head2):
        if hasattr(head, "dpt"):
            scratch = head.dpt.scratch
            kept = list(scratch.layer_rn)
            del scratch.layer_rn
            scratch.layer_rn = kept


if __name__ == "__main__":
    main(*sys.argv[1:])
