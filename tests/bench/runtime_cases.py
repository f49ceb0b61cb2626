"""The models of ``runtimes.py``, each as our step and as a PyTorch user's, with equal weights.

A case makes its weights from a seed in either process. ``ours(case, runtime, precision)`` and
``theirs(case, mode, dtype)`` give a :class:`Run`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

PICTURES = 4
QUICK: dict[str, dict[str, Any]] = {
    "tsa-s16": dict(image_size=(32, 32), dim=64, depth=2, heads_per_block=2),
    "dsta-s16": dict(image_size=(32, 32), dim=64, depth=2, heads_per_block=2),
}
CASES = ("tsa-s16", "dsta-s16", "dinov3-s16", "yolox-nano/coco", "edgetam-m1")


@dataclasses.dataclass
class Run:
    """``step()`` does one frame; ``answer()`` gives the numbers of it that both sides have."""

    step: Callable[[], Any]
    answer: Callable[[], np.ndarray]


def frames(size: tuple[int, int]) -> list[np.ndarray]:
    """uint8 [1, h, w, 3], smooth: detectors and trackers see more than noise."""
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (PICTURES, size[0] // 16, size[1] // 16, 3), np.uint8)
    return list(small.repeat(16, 1).repeat(16, 2)[:, None])


def students(name: str, quick: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config fields, flat weights) of a student with a frame head."""
    import turns

    from streamzoo.zoo import init_params
    from streamzoo.zoo.trees import flatten

    config: dict[str, Any] = dict(heads=("frame",), num_classes=80, image_size=(224, 224))
    config |= QUICK[name] if quick else {}
    return config, turns.lively(flatten(init_params(name, **config)[1]))


def reference(name: str, quick: bool) -> Any:
    """transformers' module with seeded weights."""
    from shim import mend_torchvision  # pyright: ignore[reportMissingImports]

    mend_torchvision()
    import encoders
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "dinov3-s16":
        side, dim, depth = (32, 64, 2) if quick else (224, 384, 12)
        config = transformers.DINOv3ViTConfig(
            image_size=side, num_register_tokens=4, hidden_size=dim, intermediate_size=4 * dim,
            num_hidden_layers=depth, num_attention_heads=dim // 64,
        )  # fmt: skip
        return transformers.DINOv3ViTModel(config).eval()
    model = transformers.EdgeTamVideoModel(encoders.edgetam_config(quick)).eval()
    shared = model.shared_image_embedding.state_dict()  # one table, published twice
    model.prompt_encoder.shared_embedding.load_state_dict(shared)
    encoders.settle(model.vision_encoder.backbone, 256 if quick else 512)
    with torch.no_grad():  # the object is in every frame
        model.mask_decoder.pred_obj_score_head.proj_out.bias.add_(3.0)
    return model


def ours(name: str, quick: bool) -> Callable[[str, str], Run]:
    """(runtime, precision) -> our step of this model, from a uint8 frame to numbers on the host."""
    import jax
    import jax.numpy as jnp

    from streamzoo import zoo
    from streamzoo.streaming.step import Step
    from streamzoo.zoo.segment.stream import no_prompts
    from streamzoo.zoo.streams import as_stream
    from streamzoo.zoo.trees import nest

    card, extras, read = zoo.model_card(name), {}, lambda out: out.logits
    if name in QUICK:
        config, flat = students(name, quick)
        model = zoo.create_model(name, **config)
        params: Any = nest({k: jnp.asarray(a) for k, a in flat.items()})
    elif name == "yolox-nano/coco":
        model, params = zoo.load(name, threshold=0.05)
        read = lambda out: out.scores[:, :, :10]
    else:
        import encoders

        model, params = encoders.convert(reference(name, quick))
        read = lambda out: out.features
    if name == "edgetam-m1":
        model = model.clone(
            config=dataclasses.replace(model.config, objects=1, prompted_slots=1, points=1)
        )
        read = lambda out: out.masks
        extras["prompts"] = no_prompts(1, 1, 1, 1)
    height, width = getattr(model.config, "image_size", card.input_size)
    size = int(height), int(width)
    card = dataclasses.replace(card, input_size=size)
    stream = as_stream(model, card)
    shown = [f[:, None] for f in frames(size)]

    def make(runtime: str, precision: str) -> Run:
        step = Step(stream, params, card, runtime=runtime, precision=precision)
        state = {"carry": step.init_carry(1), "count": 0}

        def run() -> Any:
            given = dict(extras)
            if extras and not state["count"]:
                given["prompts"] = _point(no_prompts(1, 1, 1, 1), size)
            frame = shown[state["count"] % PICTURES]
            state["carry"], out = step(state["carry"], frame, None, **given)
            state["count"] += 1
            return jax.block_until_ready((state["carry"], out))[1]

        return Run(run, lambda: np.asarray(read(run()), np.float32).ravel())

    return make


def _point(prompts: Any, size: tuple[int, int]) -> Any:
    prompts.points[0, 0, 0, 0] = (size[1] / 2, size[0] / 3)
    prompts.labels[0, 0, 0, 0] = 1
    prompts.pointed[0, 0, 0] = True
    return prompts


def theirs(name: str, quick: bool) -> Callable[[str, str], Run]:
    """(eager | compile, dtype) -> the step of a PyTorch user."""
    import torch

    if name in QUICK:
        return _student(name, quick)
    if name == "yolox-nano/coco":
        return _detector(name)
    model = reference(name, quick)
    state = model.state_dict()
    side = model.config.image_size
    shown = [torch.from_numpy(f) for f in frames((side, side))]
    mean, std = (torch.tensor(x) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    count = {}

    def make(mode: str, dtype: str) -> Run:
        kind = getattr(torch, dtype)
        mine = reference(name, quick)
        mine.load_state_dict(state)
        mine = mine.to(kind)
        ready = lambda f: ((f.float() / 255 - mean) / std).permute(0, 3, 1, 2).to(kind)
        count[mode, dtype] = 0

        def following() -> Any:
            count[mode, dtype] += 1
            return shown[(count[mode, dtype] - 1) % PICTURES]

        if name == "dinov3-s16":
            skip = 1 + mine.config.num_register_tokens
            call: Any = lambda f: mine(ready(f)).last_hidden_state[:, skip:]
            return _compiled(call, mode, shown[0], following)
        return _tracker(mine, mode, kind, side, ready, following)

    return make


def _compiled(call: Any, mode: str, first: Any, following: Callable[[], Any]) -> Run:
    """A function of a frame alone; compiling it a second time is an error."""
    import torch

    if mode == "compile":
        torch._dynamo.config.error_on_recompile = False
        call = torch.compile(call, fullgraph=True, dynamic=False)

    def run() -> Any:
        with torch.inference_mode():
            return call(following())

    if mode == "compile":
        with torch.inference_mode():
            call(first)  # of a frame by itself: the answers begin at the first one
        torch._dynamo.config.error_on_recompile = True
    return Run(run, lambda: run().float().numpy().ravel())


def _student(name: str, quick: bool) -> Callable[[str, str], Run]:
    import torch_step

    from streamzoo.zoo import model_card, model_config

    config, flat = students(name, quick)
    cfg, card = model_config(name, **config), model_card(name)
    rows, cols = cfg.grid()
    shape = dict(
        tokens=rows * cols, patch=cfg.patch, dim=cfg.dim, depth=cfg.depth, eps=cfg.eps,
        heads=cfg.heads_per_block, classes=cfg.num_classes, mean=card.mean, std=card.std,
        memory="lstm" if name.startswith("dsta") else "shift",
    )  # fmt: skip
    task = dict(shape=shape, threads=2, frames=frames(cfg.image_size))

    def make(mode: str, dtype: str) -> Run:
        made = torch_step.Variant(task, flat, mode, dtype)
        made.carry, made.count = made.fresh(), 0
        return Run(made.step, lambda: made.step().float().numpy().ravel())

    return make


def _detector(name: str) -> Callable[[str, str], Run]:
    import torch
    import torch_yolox

    from streamzoo.zoo import load, model_card
    from streamzoo.zoo.trees import flatten

    _, params = load(name)
    size = model_card(name).input_size
    flat = {k: np.asarray(a) for k, a in flatten(params).items()}
    shown = [torch.from_numpy(f) for f in frames(size)]

    def make(mode: str, dtype: str) -> Run:
        model = torch_yolox.YOLOX(size).eval()
        model.load(flat)
        model = model.to(getattr(torch, dtype))
        model.cells, model.strides = model.cells.float(), model.strides.float()
        any_model: Any = model
        model = any_model.to(memory_format=torch.channels_last)
        count = iter(range(10**9))
        found = _compiled(model, mode, shown[0], lambda: shown[next(count) % PICTURES])

        def run() -> Any:
            with torch.inference_mode():
                return torch_yolox.kept(*found.step(), threshold=0.05)

        def answer() -> np.ndarray:
            scores = run()[1].numpy()[:10]
            return np.pad(scores, (0, 10 - len(scores)))

        return Run(run, answer)

    return make


def _tracker(model, mode, kind, side, ready, following) -> Run:
    """EdgeTAM with transformers' session; compiled are its encoder, its memory attention and its
    memory encoder, as the rest is Python over dictionaries."""
    import torch
    from transformers import EdgeTamVideoInferenceSession

    session = EdgeTamVideoInferenceSession(dtype=kind)
    index = session.obj_id_to_idx(0)
    point = {
        "point_coords": torch.tensor([[[[side / 2, side / 3]]]]),
        "point_labels": torch.tensor([[[1]]], dtype=torch.int32),
    }
    session.add_point_inputs(index, 0, point)
    session.obj_with_new_inputs = [0]
    if mode == "compile":
        torch._dynamo.config.error_on_recompile = False
        for part in ("vision_encoder", "memory_encoder"):
            setattr(model, part, torch.compile(getattr(model, part), dynamic=False))

    def run() -> Any:
        with torch.inference_mode():
            return model(session, frame=ready(following())).pred_masks

    return Run(run, lambda: run().float().numpy().ravel())
