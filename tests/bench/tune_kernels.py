"""Tries block sizes of the kernels on the device that is here and prints lines for blocks.TABLE.

For each operation and class of shapes every combination of sizes is compiled, checked against the
reference and timed at the zoo's shapes; the best by geometric mean over the shapes wins. Sizes that
do not compile, or are wrong, on one of the shapes drop out.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from kernel_chips import cases
from kernel_race import difference
from spine import say

from streamzoo.layers.kernels.ring_attention.reference import Keys

EXAMPLE = """examples:
  python tests/bench/tune_kernels.py                               every operation and shape
  python tests/bench/tune_kernels.py ring_attention --shape "vit-b position"
  python tests/bench/tune_kernels.py ssd --sizes rows=1,2,4 lanes=64,128
  python tests/bench/tune_kernels.py --dry-run                     tiny, interpreted, on a CPU
"""
ROWS = (1, 2, 4, 8)
SIZES: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("ring_attention", "cuda"): {"rows": (16, 32, 64, 128), "keys": (16, 32, 64, 128)},
    ("ring_attention", "tpu"): {
        "rows": (64, 128, 256, 512),
        "bytes": (1 << 18, 1 << 19, 1 << 20, 1 << 21),
    },
    ("ssd", "cuda"): {"rows": (1, 2, 4), "lanes": (32, 64, 128)},
    ("ssd", "tpu"): {"rows": (8, 16), "lanes": (128, 256, 512)},
    ("gated_delta", "cuda"): {"rows": ROWS, "heads": (1, 2, 4)},
    ("gated_delta", "tpu"): {"rows": ROWS, "heads": (1, 2, 4, 8), "chunks": (1, 4, 16)},
    ("linear_scan", "cuda"): {"rows": ROWS, "channels": (16, 32, 64, 128)},
    ("linear_scan", "tpu"): {
        "frames": (16, 64, 256),
        "rows": (8, 16, 64),
        "channels": (128, 256, 512, 1024),
    },
    ("block_attention", "cuda"): {"rows": (16, 32, 64, 128), "keys": (16, 32, 64)},
    ("block_attention", "tpu"): {"keys": (64, 128, 256, 512)},
}
KERNELS = {("block_attention", "tpu"): "pallas_tpu"}  # else "pallas"
INTERPRETED = {
    "ring_attention": ("cuda", "interpret"),
    "ssd": ("cuda", "interpret"),
    "gated_delta": ("tpu", "interpret"),
    "linear_scan": ("tpu", "interpret"),
    "block_attention": ("tpu", "interpret_tpu"),
}
Sizes = dict[str, int]


def fill(op: str, arrays: tuple, options: Mapping[str, Any]) -> tuple:
    """Random arrays of these shapes, of values that the operation may meet."""
    rng = np.random.default_rng(0)

    def draw(a: Any) -> Any:
        if a is None:
            return None
        if a.dtype == jnp.int8:
            return jnp.asarray(rng.integers(-127, 128, a.shape), a.dtype)
        return jnp.asarray(rng.standard_normal(a.shape, dtype=np.float32), a.dtype)

    if op == "ring_attention":
        q, keys = arrays
        (batch, frames), steps = keys.pos.shape, q.shape[1]
        pos = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.int32), (batch, frames))
        scale = lambda a: None if a is None else jnp.abs(draw(a)) / 64
        scales = scale(keys.k_scale), scale(keys.v_scale)
        return draw(q), Keys(draw(keys.k), draw(keys.v), *scales, pos, pos[:, -steps:], None, None)
    if op == "block_attention":
        (named,) = arrays
        slots = named["k"].shape[1]
        count, shape = -(-slots // options["page"]), named["pages"].shape
        pages = np.argsort(rng.random((*shape[:-1], count)))[..., : shape[-1]]
        place = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), named["key_pos"].shape)
        found = {name: draw(named[name]) for name in ("q", "k", "v")}
        found |= {"pages": jnp.asarray(pages, jnp.int32), "key_pos": place}
        return (found | {"query_pos": jnp.full(named["query_pos"].shape, slots, jnp.int32)},)
    drawn = [draw(a) for a in arrays]
    if op == "linear_scan":
        drawn[0] = jax.nn.sigmoid(drawn[0])
    else:  # gated_delta, ssd: q, k, v, g[, beta], state
        for i in (0, 1):
            drawn[i] = drawn[i] / jnp.linalg.norm(drawn[i], axis=-1, keepdims=True)
        drawn[3] = -0.1 * jnp.abs(drawn[3])
        if op == "gated_delta":
            drawn[4] = jax.nn.sigmoid(drawn[4])
    return tuple(drawn)


def given(op: str, sizes: Sizes | None) -> Any:
    """``sizes`` as the operation takes them."""
    if sizes is None:
        return None
    return tuple(sorted(sizes.items())) if op in ("ring_attention", "ssd") else sizes


def shape_class(op: str, arrays: tuple, options: Mapping[str, Any]) -> str:
    """The class of TABLE that these arrays belong to."""
    if op == "ring_attention":
        return options["over"]
    if op == "gated_delta":
        return "step" if arrays[0].shape[1] == 1 else "clip"
    if op == "linear_scan":
        return "rows" if arrays[0].ndim > 3 else "plain"
    return ""


def timed(run: Any, arrays: tuple, count: int, rounds: int) -> tuple[float, Any]:
    """(median seconds of one call out of ``count`` in one program, the values)."""

    @jax.jit
    def many(arrays: tuple) -> Any:
        leaves, tree = jax.tree.flatten(arrays)

        def body(carry: jax.Array, _: None):  # each call depends on the one before
            first = leaves[0] + (carry * 1e-30).astype(leaves[0].dtype)
            out = run(*jax.tree.unflatten(tree, [first, *leaves[1:]]))
            return jnp.ravel(jax.tree.leaves(out)[0])[0].astype(jnp.float32), None

        return jax.lax.scan(body, jnp.float32(0), None, length=count)[0]

    values = jax.tree.leaves(jax.jit(run)(*arrays))[0]
    jax.block_until_ready(many(arrays))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(many(arrays))
        times.append((time.perf_counter() - start) / count)
    return float(np.median(times)), values


def try_all(
    op: str,
    name: str,
    arrays: tuple,
    options: dict,
    combinations: list[Sizes],
    kernel: str,
    dry: bool,
) -> tuple[float, dict[int, float]] | None:
    """(seconds of the chosen sizes, of each combination that works) at one shape."""
    run = cases("table").OPS[op][0]
    count, rounds = (1, 1) if dry else (20, 10)
    options = {k: v for k, v in options.items() if k != "blocks"}

    def call(implementation: str, sizes: Sizes | None):
        own = dict(implementation=implementation, blocks=given(op, sizes))
        return timed(lambda *a: run(*a, **options, **own), arrays, count, rounds)

    truth = call("reference", None)[1]
    try:
        base, values = call(kernel, None)
    except Exception as error:
        say(f"{op}, {name}: {kernel} cannot: {(str(error).splitlines() or [''])[0][:160]}")
        return None
    bound = 1e-3 if truth.dtype == jnp.float32 and not dry else 3e-2
    say(f"{op}, {name}: {1e6 * base:.1f} us as it is, off by {difference(values, truth):.1e}")
    found = {}
    for i, sizes in enumerate(combinations):
        try:
            seconds, values = call(kernel, sizes)
            if (gap := difference(values, truth)) > bound:
                raise ValueError(f"wrong by {gap:.1e}")
            found[i] = seconds
            say(f"  {sizes}: {1e6 * seconds:.1f} us")
        except Exception as error:  # too much shared memory, a size that does not divide ...
            say(f"  {sizes}: {(str(error).splitlines() or [''])[0][:120]}")
    return base, found


def tune(op: str, platform: str, chip: str, kernel: str, args: argparse.Namespace) -> None:
    """Prints the lines of one operation."""
    space = dict(SIZES[op, platform])
    for choice in args.sizes:
        size, _, values = choice.partition("=")
        if size in space:
            space[size] = tuple(int(v) for v in values.split(","))
    if args.dry_run:
        last = list(space)[-1]
        space = {size: values[: 1 + (size == last)] for size, values in space.items()}
    combinations = [dict(zip(space, v, strict=True)) for v in itertools.product(*space.values())]
    by_class: dict[str, list] = {}
    for name, arrays, options in shapes_of(op, args):
        kind = shape_class(op, arrays, options)
        result = try_all(op, name, arrays, options, combinations, kernel, args.dry_run)
        if result:
            by_class.setdefault(kind, []).append((name, *result))
    for kind, results in by_class.items():
        scores = {}
        for i in range(len(combinations)):
            if all(i in found for _, _, found in results):
                logs = [math.log(found[i] / base) for _, base, found in results]
                scores[i] = math.exp(sum(logs) / len(logs))
        if not scores:
            print(f"    # {op}, {kind}: no combination works at all of the shapes")
            continue
        best = min(scores, key=lambda i: scores[i])
        gain = scores[best] < 0.97
        lead = "    " if gain else "    # "
        verdict = "" if gain else "; no gain: keep what is there"
        print(f"{lead}({op!r}, {chip!r}, {kind!r}): {combinations[best]},")
        print(f"    # {scores[best]:.3f} of the present time (geometric mean){verdict}")
        for name, base, found in results:
            print(f"    #   {name}: {1e6 * found[best]:.1f} us, {1e6 * base:.1f} us as it is")


def shapes_of(op: str, args: argparse.Namespace) -> list[tuple[str, tuple, dict]]:
    if args.dry_run:  # the first random case of the suite is small
        arrays, options = cases(f"{op}_cases").random_case(0, jnp.float32)
        if op == "block_attention":
            arrays = (arrays,)
        if op in ("gated_delta", "linear_scan"):  # without resets: what they forget may be NaN
            arrays = jax.tree.map(jnp.nan_to_num, arrays[:-1])
        return [("random case", arrays, options)]
    every = cases("table").OPS[op][1]()
    unknown = sorted(set(args.shape) - {name for name, *_ in every})
    if unknown and len(args.op) == 1:
        names = ", ".join(repr(name) for name, *_ in every)
        raise SystemExit(f"{op}: no shape {', '.join(map(repr, unknown))}; there are {names}")
    chosen = [case for case in every if not args.shape or case[0] in args.shape]
    return [(name, fill(op, arrays, options), options) for name, arrays, options in chosen]


def main() -> None:
    """Parses the command line, tunes and prints."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ops = list(INTERPRETED)
    top.add_argument("op", nargs="*", metavar="OP", help=f"{', '.join(ops)} (default: all)")
    top.add_argument("--shape", nargs="+", default=[], help="names of the zoo's shapes")
    top.add_argument("--sizes", nargs="+", default=[], metavar="NAME=N,N", help="sizes to try")
    top.add_argument("--dry-run", action="store_true", help="tiny shapes in interpret mode")
    args = top.parse_args()
    if unknown := sorted(set(args.op) - set(ops)):
        top.error(f"no operation {', '.join(unknown)}; there are {', '.join(ops)}")
    known = sorted({size for space in SIZES.values() for size in space})
    for choice in args.sizes:
        name, _, values = choice.partition("=")
        if name not in known or not all(v.isdigit() and int(v) for v in values.split(",")):
            top.error(f"--sizes {choice!r} must be one of {', '.join(known)} and numbers: rows=1,2")
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in ("tpu", "cuda") and not args.dry_run:
        print(
            f"tune_kernels wants a TPU or a GPU; jax found {platform} only. "
            "--dry-run tries the loop in interpret mode.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    args.op = args.op or ops
    chip = "dry run" if args.dry_run else jax.local_devices()[0].device_kind
    print(f"# {chip}, jax {jax.__version__}: for TABLE of layers/kernels/blocks.py")
    for op in args.op:
        own, kernel = (platform, KERNELS.get((op, platform), "pallas"))
        if args.dry_run:
            own, kernel = INTERPRETED[op]
        if (op, own) in SIZES:
            tune(op, own, chip, kernel, args)
        else:
            print(f"    # {op}: the kernel for {own} has no block sizes")


if __name__ == "__main__":
    main()
