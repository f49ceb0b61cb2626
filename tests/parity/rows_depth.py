"""Rows of the depth models: maps of frames at the size of the position table, and at another."""

from __future__ import annotations

from typing import Any

from .harness import Row, images, lively, run, to_torch

NECK: dict[str, Any] = dict(neck_hidden_sizes=[8, 16, 24, 24], fusion_hidden_size=16)
BODY: dict[str, Any] = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=3)


def _lifted(model: Any, last: Any) -> Any:
    """A lively model whose last rectifier lets something through."""
    model = lively(model, scale=6.0)
    last.bias.data += 1.0
    return model


def anything() -> Any:
    """Depth Anything, relative."""
    import transformers

    shape: dict[str, Any] = dict(image_size=70, patch_size=14, out_indices=[1, 2, 3, 4])
    backbone = transformers.Dinov2Config(**BODY, **shape, reshape_hidden_states=False)
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=48, head_hidden_size=8, **NECK
    )
    model = transformers.DepthAnythingForDepthEstimation(config)
    return _lifted(model, model.head.conv3)


def dpt() -> Any:
    """DPT with a readout that is projected."""
    import transformers

    config = transformers.DPTConfig(
        **BODY, **NECK, intermediate_size=96, image_size=64, patch_size=16, is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3], readout_type="project",
    )  # fmt: skip
    model = transformers.DPTForDepthEstimation(config)
    return _lifted(model, model.head.head[4])


def compare(*sizes: tuple[int, int]):
    """The maps of frames of several sizes."""

    def pairs(reference: Any, module: Any, variables: Any) -> dict:
        found = {}
        for height, width in sizes:
            frames = images(height, width)
            _, out = run(module, variables, (), frames[None])
            want = reference(to_torch(frames)).predicted_depth
            found[f"{height}x{width}"] = (out.depth[0], want)
        return found

    return pairs


ROWS = [
    Row(
        "depthanything-s14",
        "transformers DepthAnythingForDepthEstimation",
        anything,
        compare((70, 70), (70, 98), (42, 126)),
    ),
    # transformers' class takes square frames only
    Row("dpt-l16", "transformers DPTForDepthEstimation", dpt, compare((64, 64), (96, 96))),
]
