"""Encoders and trackers against transformers' PyTorch on the same random weights, in one run.

Both run in turns in this process, one frame at a time from a float frame on the host to numbers on
the host; medians, compile time apart. Random frames; the answers are compared first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads must not spin

import numpy as np
from spine import HERE, Report, say, spread, surroundings

EXAMPLE = """examples:
  python tests/bench/encoders.py                  everything; writes results/encoders.{md,json}
  python tests/bench/encoders.py --only encoder   one section, printed and not written
  python tests/bench/encoders.py --quick          tiny shapes: does it run? (no targets)
"""
WARM = 1  # untimed calls of a turn: the caches belonged to someone else


def race(runs: dict[str, Callable[[], Any]], rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds of each call, ``count`` per turn and name, ``rounds`` turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for i in range(WARM + count):
                start = time.perf_counter()
                run()
                if i >= WARM:
                    times[name].append(time.perf_counter() - start)
    return times


def convert(reference: Any) -> tuple[Any, Any]:
    """Our (module, variables) of a transformers model, through its own files."""
    from streamzoo import zoo
    from streamzoo.zoo.convert import convert_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        plan, variables = convert_checkpoint(folder)
    return zoo.create_model(plan.model, **plan.overrides), variables


def cast(variables: Any, dtype: str) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda a: jnp.asarray(a, dtype), variables)


def verdict(report: Report, what: str, times: dict[str, list[float]]) -> None:
    """Rows of all, and the ratio of the best dtype of either side."""
    for name, seconds in times.items():
        report.row(what=what, run=name, **spread(seconds))
    mid = {name: float(np.median(seconds)) for name, seconds in times.items()}
    best = {
        side: min(v for k, v in mid.items() if k.startswith(side)) for side in ("torch", "ours")
    }
    for dtype in ("float32", "bfloat16"):
        ratio = mid[f"torch {dtype}"] / mid[f"ours {dtype}"]
        report.target(f"{what}: torch ms / ours ms, {dtype}", ratio, at_least=1.0)
    ratio = best["torch"] / best["ours"]
    report.target(f"{what}: torch ms / ours ms, best dtypes", ratio, at_least=1.0)


def encoder(report: Report, args: argparse.Namespace) -> None:
    """DINOv3 ViT S/16 at 224 px, one frame."""
    import torch
    import transformers

    torch.manual_seed(0)
    side, dim, depth = (32, 64, 2) if args.quick else (224, 384, 12)
    config = transformers.DINOv3ViTConfig(
        image_size=side, num_register_tokens=4, hidden_size=dim, intermediate_size=4 * dim,
        num_hidden_layers=depth, num_attention_heads=dim // 64,
    )  # fmt: skip
    reference = transformers.DINOv3ViTModel(config).eval()
    frame = np.random.default_rng(0).normal(size=(1, side, side, 3)).astype(np.float32)
    skip = 1 + config.num_register_tokens
    per_frame(
        report, f"DINOv3 ViT S/16, {side} px", args.turns["encoder"], reference, frame,
        theirs=lambda model, x: model(x).last_hidden_state[:, skip:],
        ours=lambda module, v, x: module.apply(v, x).features,
    )  # fmt: skip


def per_frame(
    report: Report, what: str, turns: tuple[int, int], reference: Any, frame: np.ndarray,
    theirs: Callable[[Any, Any], Any], ours: Callable[[Any, Any, Any], Any],
) -> None:  # fmt: skip
    """Races a model of single frames; ``theirs`` and ``ours`` say what of an answer is compared."""
    import copy

    import jax
    import torch

    module, variables = convert(reference)
    runs: dict[str, Callable[[], Any]] = {}
    answers: dict[str, np.ndarray] = {}
    for dtype in ("float32", "bfloat16"):
        kind = getattr(torch, dtype)
        model = copy.deepcopy(reference).to(kind)
        given = torch.from_numpy(frame.transpose(0, 3, 1, 2).copy()).to(kind)

        def run_torch(model: Any = model, x: Any = given) -> np.ndarray:
            with torch.inference_mode():
                return theirs(model, x).float().numpy()

        own = module.clone(config=in_dtype(module.config, dtype))
        weights = cast(variables, dtype)
        start = time.perf_counter()
        step = jax.jit(lambda v, x, m=own: ours(m, v, x)).lower(weights, frame).compile()
        report.note(f"ours {dtype}: compiled in {time.perf_counter() - start:.1f} s")

        def run_ours(step: Any = step, weights: Any = weights) -> np.ndarray:
            return np.asarray(step(weights, frame), np.float32)

        runs |= {f"torch {dtype}": run_torch, f"ours {dtype}": run_ours}
        answers[f"torch {dtype}"] = run_torch().ravel()
        answers[f"ours {dtype}"] = run_ours().ravel()
        gap = np.abs(answers[f"torch {dtype}"] - answers[f"ours {dtype}"]).max()
        size = np.abs(answers["torch float32"]).std()
        report.note(f"{dtype}: answers differ by {gap:.1e} at most, their spread is {size:.1e}")
    verdict(report, what, race(runs, *turns))


def in_dtype(config: Any, dtype: str) -> Any:
    """A config that computes in a type, and so does each encoder inside it."""
    inside = {
        f.name: in_dtype(getattr(config, f.name), dtype)
        for f in dataclasses.fields(config)
        if f.name == "encoder"
    }
    return dataclasses.replace(config, dtype=dtype, **inside)


def depth(report: Report, args: argparse.Namespace) -> None:
    """Depth Anything V2 S at 518 px and DPT-L at 384 px, one frame."""
    import torch
    import transformers

    torch.manual_seed(0)
    side, dim, blocks = (70, 48, 4) if args.quick else (518, 384, 12)
    taps = [blocks // 4 * k for k in (1, 2, 3, 4)]
    shape: dict[str, Any] = dict(
        hidden_size=dim, num_hidden_layers=blocks, num_attention_heads=3 if args.quick else 6,
        image_size=side, patch_size=14, out_indices=taps, reshape_hidden_states=False,
    )  # fmt: skip
    backbone = transformers.Dinov2Config(**shape)
    anything = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=dim, head_hidden_size=32,
            neck_hidden_sizes=[48, 96, 192, 384], fusion_hidden_size=64,
        )
    )  # fmt: skip
    small: dict[str, Any] = dict(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, intermediate_size=96,
        image_size=64, backbone_out_indices=[0, 1, 2, 3],
    )  # fmt: skip
    dpt = transformers.DPTForDepthEstimation(
        transformers.DPTConfig(is_hybrid=False, **(small if args.quick else {}))
    )
    last = {"Depth Anything V2 S": anything.head.conv3, "DPT-L": dpt.head.head[4]}
    for name, model, pixels in (
        ("Depth Anything V2 S", anything, side),
        ("DPT-L", dpt, 64 if args.quick else 384),
    ):
        last[name].bias.data += 1.0  # else the last rectifier lets nothing through
        frame = np.random.default_rng(0).normal(size=(1, pixels, pixels, 3)).astype(np.float32)
        per_frame(
            report, f"{name}, {pixels} px", args.turns["depth"], model.eval(), frame,
            theirs=lambda model, x: model(x).predicted_depth,
            ours=lambda module, v, x: module.apply(v, x, method="find").depth,
        )  # fmt: skip


def tracker(report: Report, args: argparse.Namespace) -> None:
    """EdgeTAM, one object, with all of its memory filled."""
    import jax
    import torch
    import transformers

    from streamzoo.zoo.segment.stream import no_prompts

    torch.manual_seed(0)
    reference = transformers.EdgeTamVideoModel(edgetam_config(args.quick)).eval()
    shared = reference.shared_image_embedding.state_dict()  # one table, published twice
    reference.prompt_encoder.shared_embedding.load_state_dict(shared)
    settle(reference.vision_encoder.backbone, 256 if args.quick else 512)
    with torch.no_grad():  # the object is in every frame, or masks would be a constant
        reference.mask_decoder.pred_obj_score_head.proj_out.bias.add_(3.0)
    module, variables = convert(reference)
    side = module.config.image_size[0]
    rng = np.random.default_rng(0)
    film = rng.normal(size=(4, 1, side, side, 3)).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    exact: dict[str, np.ndarray] = {}
    for dtype in ("float32", "bfloat16"):
        kind = getattr(torch, dtype)
        theirs = transformers.EdgeTamVideoModel(edgetam_config(args.quick)).eval()
        theirs.load_state_dict(reference.state_dict())
        theirs = theirs.to(kind)
        session = transformers.EdgeTamVideoInferenceSession(dtype=kind)
        index = session.obj_id_to_idx(0)
        point = {
            "point_coords": torch.tensor([[[[side / 2, side / 3]]]]),
            "point_labels": torch.tensor([[[1]]], dtype=torch.int32),
        }
        session.add_point_inputs(index, 0, point)
        session.obj_with_new_inputs = [0]
        pictures = [torch.from_numpy(f.transpose(0, 3, 1, 2).copy()).to(kind) for f in film]
        count = {"torch": 0, "ours": 0}

        def run_torch(model=theirs, session=session, pictures=pictures, count=count) -> np.ndarray:
            picture = pictures[count["torch"] % len(pictures)]
            count["torch"] += 1
            with torch.inference_mode():
                return model(session, frame=picture).pred_masks.float().numpy()

        # one prompt is given, and theirs holds no room for more
        config = dataclasses.replace(module.config, dtype=dtype, objects=1, prompted_slots=1)
        ours = module.clone(config=config)
        weights = cast(variables, dtype)
        state = {"carry": ours.init_carry(1)}
        shown: Any = no_prompts(1, 1, 1, config.points)
        shown.points[0, 0, 0, 0] = (side / 2, side / 3)
        shown.labels[0, 0, 0, 0] = 1
        shown.pointed[0, 0, 0] = True
        nothing = no_prompts(1, 1, 1, config.points)

        def apply(weights, carry, frame, prompts, model=ours):
            return model.apply(weights, carry, frame, None, prompts)

        start = time.perf_counter()
        step = jax.jit(apply, donate_argnums=1)
        step = step.lower(weights, state["carry"], film[0][:, None], nothing).compile()
        report.note(f"ours {dtype}: compiled in {time.perf_counter() - start:.1f} s")

        def run_ours(step=step, weights=weights, state=state, count=count, shown=shown):
            frame = film[count["ours"] % len(film)][:, None]
            prompts = nothing if count["ours"] else shown
            count["ours"] += 1
            state["carry"], out = step(weights, state["carry"], frame, prompts)
            return np.asarray(out.masks, np.float32)

        runs |= {f"torch {dtype}": run_torch, f"ours {dtype}": run_ours}
        first = {side: run().ravel() for side, run in (("t", run_torch), ("o", run_ours))}
        exact = exact or first
        for one, other, who in (
            (first["t"], first["o"], "torch's and ours"),
            (first["t"], exact["t"], "torch's and torch's float32 ones"),
            (first["o"], exact["o"], "ours and our float32 ones"),
        ):
            if one is other:
                continue
            gap = np.abs(one - other) / exact["t"].std()
            report.note(
                f"{dtype}: first masks, {who}: apart by {gap.max():.1e} of their spread at most, "
                f"by {np.median(gap):.1e} in the middle"
            )
        for _ in range(2 if args.quick else 7):  # the memory fills
            run_torch()
            run_ours()
    verdict(report, f"EdgeTAM, {side} px, 1 object", race(runs, *args.turns["tracker"]))


def settle(trunk: Any, side: int) -> None:
    """Statistics of batch norms that fit the random weights: else numbers grow layer by layer."""
    import torch

    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        trunk.train()(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)))
    trunk.eval()


def edgetam_config(quick: bool) -> Any:
    """The published shapes; RepViT as timm builds it, without its weights."""
    import transformers

    trunk = dict(
        model_type="timm_wrapper", architecture="repvit_m1.dist_in1k", num_classes=0,
        model_args=dict(features_only=True, out_indices=[0, 1, 2, 3], in_chans=3),
    )  # fmt: skip
    side = 256 if quick else 1024
    sizes = [[side // s] * 2 for s in (4, 8, 16)]
    vision = dict(
        backbone_config=trunk, backbone_channel_list=[384, 192, 96, 48],
        backbone_feature_sizes=sizes, fpn_hidden_size=256,
    )  # fmt: skip
    more: dict[str, Any] = {}
    if quick:
        grid = side // 16
        more = dict(
            memory_attention_rope_feat_sizes=[grid, grid],
            memory_attention_rope_k_sizes=[4, 4], perceiver_resampler_num_latents_2d=16,
            perceiver_resampler_num_latents=16,
            prompt_encoder_config=dict(image_size=side),
        )  # fmt: skip
    return transformers.EdgeTamVideoConfig(
        vision_config=dict(model_type="edgetam_vision_model", **vision), image_size=side, **more
    )


SECTIONS = {"encoder": encoder, "tracker": tracker, "depth": depth}


def main() -> None:
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quick", action="store_true", help="tiny shapes, a smoke test")
    top.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    top.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    args = top.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    import torch
    from shim import mend_torchvision  # pyright: ignore[reportMissingImports]

    mend_torchvision()
    import transformers

    torch.set_num_threads(args.cores)
    args.turns = (
        {"encoder": (2, 2), "tracker": (1, 1), "depth": (1, 1)}
        if args.quick
        else {"encoder": (10, 5), "tracker": (4, 2), "depth": (5, 2)}
    )
    report, about = Report(args.quick), surroundings(sys.argv[1:])
    about["command"] = about["command"].replace("spine.py", "encoders.py")
    about["transformers"] = transformers.__version__
    for name in args.only:
        report.begin(name)
        SECTIONS[name](report, args)
    text = report.markdown(about).replace("# The spine, measured", "# Encoders, measured")
    print(text)
    if not args.quick and set(args.only) == set(SECTIONS):
        folder = HERE / "results"
        (folder / "encoders.md").write_text(text)
        found = dict(about=about, ratios=report.ratios, sections=report.sections)
        (folder / "encoders.json").write_text(json.dumps(found, indent=1) + "\n")
        say(f"wrote encoders.md and .json in {folder}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
    main()
