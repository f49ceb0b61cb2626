"""A block of endless video: ours against the same step in PyTorch, in turns, in one process.

python -m tests.bench.generate --blocks 40 --dim 256 --depth 8

Both make ``longlive``'s rollout (window 12, 3 sinks, 4 passes and a clean one) of one random
network. First their videos are compared; then each makes a block by turns. With ``--late`` ours
goes on to frame 10,000, and its rate there stands beside that at frame 100, with the bytes of its
state.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np

from streamzoo.layers.rollout.policy import longlive
from streamzoo.layers.streaming import Fields
from streamzoo.zoo.generate import Generator
from streamzoo.zoo.trees import flatten


def main() -> None:
    """Prints the lines."""
    p = argparse.ArgumentParser(description="a block of endless video, ours and in PyTorch")
    p.add_argument("--blocks", type=int, default=40, help="timed blocks (default: 40)")
    p.add_argument("--dim", type=int, default=128)
    p.add_argument("--depth", type=int, default=4)
    p.add_argument("--side", type=int, default=16, help="latent cells a side (default: 16)")
    p.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    p.add_argument("--late", action="store_true", help="to frame 10,000")
    args = p.parse_args()
    import torch

    from .torch_generator import Student

    torch.set_num_threads(args.threads)
    size: Fields = dict(image_size=(args.side, args.side), dim=args.dim, hidden=4 * args.dim,
                depth=args.depth, heads=args.dim // 32)  # fmt: skip
    value = longlive(recache=False)
    ours = Generator.create("wan-tiny", rollout=value, **size)
    moved = lambda a: np.asarray(a) + 0.05 * rng.normal(size=a.shape).astype(np.float32)
    rng = np.random.default_rng(0)
    ours = Generator(ours.engine.module, jax.tree.map(moved, ours.variables), value, donate=True)
    config = ours.engine.module.config
    theirs = Student(flatten(ours.variables), config, value)
    text = rng.normal(size=(1, config.text_length, config.text_dim)).astype(np.float32)
    draw = lambda: rng.normal(size=(1, 4, 3, *config.frame_shape)).astype(np.float32)
    state, worst = ours.start(), 0.0
    for _ in range(8):  # past the window
        draws = draw()
        state, made = ours.step(state, text, draws=draws)
        other = theirs.block(torch.from_numpy(draws), torch.from_numpy(text)).numpy()
        worst = max(worst, float(np.abs(made.latents - other).max() / np.abs(other).max()))
    print(f"largest difference of 24 frames: {worst:.1e} of the largest number")
    assert worst < 1e-4
    took: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(args.blocks):
        draws = draw()
        began = time.perf_counter()
        state, made = ours.step(state, text, draws=draws)
        jax.block_until_ready(made)
        took["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        theirs.block(torch.from_numpy(draws), torch.from_numpy(text))
        took["torch"].append(time.perf_counter() - began)
    middle = {name: float(np.median(times)) for name, times in took.items()}
    for name, seconds in middle.items():
        print(f"{name}: {3 / seconds:.1f} frames/s, {1e3 * seconds:.1f} ms a block of 3")
    print(f"ratio (torch's time over ours): {middle['torch'] / middle['ours']:.2f}")
    if args.late:
        rates, sizes = [], []
        for frame in (100, 10_000):
            while int(state.memory.seen[0]) < frame:
                state, made = ours.step(state, text)
            times = []
            for _ in range(args.blocks):
                began = time.perf_counter()
                state, made = ours.step(state, text)
                jax.block_until_ready(made)
                times.append(time.perf_counter() - began)
            rates.append(3 / float(np.median(times)))
            sizes.append(sum(a.nbytes for a in jax.tree.leaves(state)))
        print(f"frames/s at frame 100 and 10,000: {rates[0]:.1f}, {rates[1]:.1f}; bytes {sizes}")


if __name__ == "__main__":
    main()
