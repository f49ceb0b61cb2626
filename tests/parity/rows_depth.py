"""Rows of the depth models: maps of frames at the size of the position table, and at another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .golden import draw, read
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


def pro(fov: bool = True, last: int = 16) -> Any:
    """Depth Pro: pieces of 32 pixels of pictures of 128, 64 and 32."""
    import transformers

    part = transformers.Dinov2Config(
        **BODY, image_size=32, patch_size=8, mlp_ratio=2, reshape_hidden_states=False
    )
    config = transformers.DepthProConfig(
        patch_size=32, fusion_hidden_size=16, intermediate_hook_ids=[2, 1],
        intermediate_feature_dims=[12, last], scaled_images_feature_dims=[24, 20, 16],
        use_fov_model=fov, num_fov_head_layers=1, patch_model_config=part,
        image_model_config=part, fov_model_config=part, merge_padding_value=1,
    )  # fmt: skip
    model = transformers.DepthProForDepthEstimation(config)
    model = lively(model, scale=2.0)
    model.head.layers[4].bias.data += 2.0
    return model


def compare_pro(reference: Any, module: Any, variables: Any) -> dict:
    """The canonical inverse depth, the view in degrees, and the map that is fused first."""
    frames = images(128, 128)
    inverse, view = run(module, variables, frames, method="canonical")
    want = reference(to_torch(frames))
    maps = run(module, variables, frames, method="maps")
    found = {"inverse": (inverse, want.predicted_depth)}
    features = reference.depth_pro(to_torch(frames)).features
    found |= {
        f"map{i}": (ours, theirs.permute(0, 2, 3, 1))
        for i, (ours, theirs) in enumerate(zip(maps, features, strict=True))
    }
    return found | ({} if view is None else {"view": (view, want.field_of_view)})


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


def save_pi3(stored: Any, folder: Path) -> None:
    """The weights that a small Pi3 had when its answers were stored."""
    from safetensors.numpy import save_file

    from .golden_pi3 import SPECIAL

    shapes, _ = stored
    save_file(draw(shapes, SPECIAL), folder / "model.safetensors")


def compare_pi3(stored: Any, module: Any, variables: Any) -> dict:
    """Three views: points of each camera, how sure they are, poses, and points of one world."""
    from .golden_pi3 import SIZE

    _, want = stored
    found = run(module, variables, images(*SIZE, batch=1, frames=3), method="raw")
    turn, place = found.poses[..., :3, :3], found.poses[..., None, None, :3, 3]
    points = (turn[:, :, None, None] @ found.local[..., None])[..., 0] + place
    return {
        "local": (found.local, want["local"]),
        "sure": (found.sure[..., None], want["sure"]),
        "poses": (found.poses, want["poses"]),
        "points": (points, want["points"]),
    }


def dust3r(stored: str, name: str, reference: str) -> Row:
    """Two views by a network whose answers are stored: what is said of the pixels of both."""

    def save(read_: Any, folder: Path) -> None:
        import json

        from safetensors.numpy import save_file

        from .golden_dust3r import SPECIAL, config

        save_file(draw(read_[0], SPECIAL), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config(stored)), encoding="utf-8")

    def compare_pair(read_: Any, module: Any, variables: Any) -> dict:
        from .golden_dust3r import SIZE, descriptors

        frames, found = images(*SIZE[stored], batch=1, frames=2), {}
        for k, maps in enumerate(run(module, variables, frames, method="pair")):
            found |= {f"points{k}": maps.points, f"sure{k}": maps.sure}
            if maps.descriptors is not None:
                found[f"descriptors{k}"] = descriptors(maps.descriptors)
                found[f"descriptors_sure{k}"] = maps.descriptors_sure
        return {key: (found[key], want) for key, want in read_[1].items()}

    return Row(name, reference, lambda: read(stored), compare_pair, save=save, frames=2)


ROWS = [
    Row(
        "depthanything-s14",
        "transformers DepthAnythingForDepthEstimation",
        anything,
        compare((70, 70), (70, 98), (42, 126)),
    ),
    Row("depthpro-l16", "transformers DepthProForDepthEstimation", pro, compare_pro),
    Row(
        "depthpro-l16",
        "transformers DepthProForDepthEstimation without its view",
        lambda: pro(False, last=20),
        compare_pro,
    ),
    dust3r("dust3r", "dust3r-l", "official DUSt3R (stored numbers)"),
    dust3r("dust3r_linear", "dust3r-l", "official DUSt3R with linear heads (stored numbers)"),
    dust3r("mast3r", "mast3r-l", "official MASt3R (stored numbers)"),
    # transformers' class takes square frames only
    Row("dpt-l16", "transformers DPTForDepthEstimation", dpt, compare((64, 64), (96, 96))),
    Row(
        "pi3-l14",
        "official Pi3 (stored numbers)",
        lambda: read("pi3"),
        compare_pi3,
        save=save_pi3,
        frames=3,
    ),
]
