"""Writes ``data/efficienttam.npz``: what the official EfficientTAM answers with weights of a seed.

    pip download --no-deps efficient-track-anything && unzip -d there efficient_track_anything*.whl
    PYTHONPATH=there python -m tests.parity.golden_efficienttam

The wheel is a top-level ``sam2`` and asks for packages that the model does not need, so it is not
installed with the tests. The frames and prompts are those of ``rows_track``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from .golden import fill, write
from .harness import mend_torchvision, to_torch
from .rows_track import PROMPTS, SIDE, by_object, video

# of weights that are not drawn as matrices, gains and biases are
SPECIAL = {
    r".*(token|tokens|embed|point_embeddings\.\d)\.weight": (0.0, 2.0),
    r"maskmem_tpos_enc|no_\w+": (0.0, 1.0),
    r".*pos_embed": (0.0, 0.2),
    r".*gaussian_matrix": (0.0, 0.33),
    r".*gamma": (0.5, 0.2),
    # so that an object is there in some frames only
    r"sam_mask_decoder\.pred_obj_score_head\.layers\.2\.bias": (-1.98, 0.0),
}


def thinned(key: str, value: np.ndarray) -> np.ndarray:
    """Of the memories, [T, N, D], every fourth frame is stored."""
    return value[::4] if key.startswith("memory") else value


def import_package() -> None:
    """The package efficient-track-anything is a top-level ``sam2``, as others are; its parts are
    imported without its ``__init__``, which starts a configuration system."""
    import importlib.util
    import types

    spec = importlib.util.find_spec("sam2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not any((Path(place) / "modeling/backbones/vitdet.py").is_file() for place in places):
        raise SystemExit("put the package efficient-track-anything on PYTHONPATH")
    if not hasattr(sys.modules.get("sam2"), "bare"):
        bare: Any = types.ModuleType("sam2")
        bare.__path__, bare.bare = places, True
        sys.modules["sam2"] = bare


def build() -> Any:
    import_package()
    from sam2.modeling.backbones.image_encoder import (  # pyright: ignore[reportMissingImports]
        ImageEncoder,
        ViTDetNeck,
    )
    from sam2.modeling.backbones.vitdet import ViT  # pyright: ignore[reportMissingImports]
    from sam2.modeling.memory_attention import (  # pyright: ignore[reportMissingImports]
        MemoryAttention,
        MemoryAttentionLayer,
    )
    from sam2.modeling.memory_encoder import (  # pyright: ignore[reportMissingImports]
        CXBlock,
        Fuser,
        MaskDownSampler,
        MemoryEncoder,
    )
    from sam2.modeling.position_encoding import (  # pyright: ignore[reportMissingImports]
        PositionEmbeddingSine,
    )
    from sam2.modeling.sam.transformer import (  # pyright: ignore[reportMissingImports]
        EfficientRoPEAttention1,
        RoPEAttention,
    )
    from sam2.modeling.sam2_base import SAM2Base  # pyright: ignore[reportMissingImports]

    def sines(width: int) -> Any:
        return PositionEmbeddingSine(width, normalize=True, scale=None, temperature=10000)

    trunk = ViT(
        img_size=SIDE, embed_dim=48, depth=4, num_heads=3, window_size=3,
        window_block_indexes=(0, 2), init_values=0.5,
    )  # fmt: skip
    neck = ViTDetNeck(sines(128), 128, trunk.channel_list, neck_norm="LN")
    rope = dict(rope_theta=10000.0, feat_sizes=(4, 4), embedding_dim=128, num_heads=1,
                downsample_rate=1, dropout=0.1)  # fmt: skip
    layer = MemoryAttentionLayer(
        "relu", EfficientRoPEAttention1(rope_k_repeat=True, kv_in_dim=64, **rope), 128, 96, 0.1,
        False, True, False, RoPEAttention(**rope),
    )  # fmt: skip
    writer = MemoryEncoder(
        64, MaskDownSampler(128, kernel_size=3, stride=2, padding=1),
        Fuser(CXBlock(128, kernel_size=7, padding=3, layer_scale_init_value=0.5), 2),
        sines(64), in_dim=128,
    )  # fmt: skip
    model = SAM2Base(
        ImageEncoder(trunk, neck), MemoryAttention(128, True, layer, 2), writer,
        num_maskmem=4, image_size=SIDE, max_obj_ptrs_in_encoder=6,
        sigmoid_scale_for_mem_enc=20.0, sigmoid_bias_for_mem_enc=-10.0,
        binarize_mask_from_pts_for_mem_enc=True, use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True, multimask_output_in_sam=True, multimask_min_pt_num=0,
        multimask_output_for_tracking=True, use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True, use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=False, only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True, pred_obj_scores_mlp=True, fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        sam_mask_decoder_extra_args=dict(
            dynamic_multimask_via_stability=True, dynamic_multimask_stability_delta=0.05,
            dynamic_multimask_stability_thresh=0.98,
        ),
    )  # fmt: skip
    return model.eval()


def stream(reference: Any, frames: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Frame by frame through ``track_step``, objects apart as in its predictor."""
    import torch

    found: dict[str, list[np.ndarray]] = {"masks": [], "pointer": [], "memory": []}
    kept: dict[int, dict[str, dict]] = {}
    for t in range(frames.shape[1]):
        features = reference.forward_image(to_torch(frames[:, t]))
        _, maps, places, sizes = reference._prepare_backbone_features(features)
        if t in PROMPTS:
            kept.setdefault(PROMPTS[t][0], {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}})
        row: dict[str, list[np.ndarray]] = {name: [] for name in found}
        for which, tracks in sorted(kept.items()):
            mine = PROMPTS.get(t, (-1,))[0] == which
            points = mask = None
            if mine:
                _, at, labels, given = PROMPTS[t]
                if given is None:
                    points = {
                        "point_coords": torch.tensor([at]),
                        "point_labels": torch.tensor([labels], dtype=torch.int32),
                    }
                else:
                    mask = torch.from_numpy(given)[None, None]
            out = reference.track_step(
                t, mine, maps, places, sizes, points, mask, tracks, num_frames=10_000
            )
            tracks["cond_frame_outputs" if mine else "non_cond_frame_outputs"][t] = out
            row["masks"].append(out["pred_masks"][0, 0].numpy())
            row["pointer"].append(out["obj_ptr"][0].numpy())
            row["memory"].append(out["maskmem_features"][0].flatten(1).T.numpy())
        for name, value in row.items():
            found[name].append(np.stack(value))
    return found


def main() -> None:
    import torch

    mend_torchvision()
    model = build()
    shapes = fill(model, SPECIAL)
    with torch.no_grad():
        found = by_object(stream(model, video()))
    for name, value in found.items():
        print(name, value.shape, value.std())
    write("efficienttam", shapes, {k: thinned(k, v) for k, v in found.items()})


if __name__ == "__main__":
    main()
