"""A file of a change of low rank, of weights that were learned as one.

    python -m streamzoo.train.low_rank runs/moonshine_live/weights.safetensors \\
        --of moonshine-base/en --rank 16 --out small.safetensors

``zoo/adapted.py`` says what is in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .. import zoo
from ..layers.streaming import Params
from ..zoo.adapted import A, B
from ..zoo.errors import WeightsError
from ..zoo.files import save_int8
from ..zoo.trees import flatten, nest


def factors(params: Params, base: Params, rank: int) -> dict[str, np.ndarray]:
    """What a file has of the difference between two trees, by the singular values.

    Raises:
      WeightsError: what is no matrix differs too, or a matrix by more than ``rank``.
    """
    after, before = flatten(params), flatten(base)
    found: dict[str, np.ndarray] = {}
    for name, leaf in after.items():
        change = np.asarray(leaf, np.float64) - np.asarray(before[name], np.float64)
        if not change.any():
            continue
        if change.ndim != 2 or not name.endswith("/kernel"):
            raise WeightsError(f"{name} differs too; only matrices have a change of low rank")
        u, s, v = np.linalg.svd(change, full_matrices=False)
        if s[rank:].sum() > 1e-3 * s.sum():
            raise WeightsError(f"{name} differs by more than rank {rank}")
        root = np.sqrt(s[:rank])
        found[name.removesuffix("/kernel") + A] = (u[:, :rank] * root).astype(np.float32)
        found[name.removesuffix("/kernel") + B] = (root[:, None] * v[:rank]).astype(np.float32)
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("weights", help="a file of weights")
    p.add_argument("--of", required=True, metavar="NAME", help="the weights that it began as")
    p.add_argument("--rank", type=int, required=True, help="of the change")
    p.add_argument("--out", required=True, help="a .safetensors file to write")
    args = p.parse_args()
    model, params, card = zoo.resolve(args.weights)
    base = zoo.load(args.of)[1]
    told = {"model": card.arch or card.name, "config": model.config, "adapts": args.of}
    save_int8(args.out, nest(factors(params, base, args.rank)), told)
    print(f"{args.out}: {Path(args.out).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
