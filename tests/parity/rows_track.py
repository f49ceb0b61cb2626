"""Rows of the trackers: 20 frames, streamed one at a time, with the reference's own session.

Frame 0 prompts the first object with two points, frame 7 adds a second one by its mask, frame 12
corrects the first with a box.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from .golden import draw, read
from .harness import Row, images, lively, to_torch

FRAMES = 20
SIDE = 64
BOX = [[6.0, 9.0], [40.0, 50.0]]
CLICKS = [[20.0, 30.0], [50.0, 12.0]]
MASK = np.zeros((SIDE, SIDE), bool)
MASK[10:38, 21:60] = True

# frame -> (object, points, labels, mask)
PROMPTS = {
    0: (0, CLICKS, [1, 0], None),
    7: (1, None, None, MASK),
    12: (0, BOX, [2, 3], None),
}
FLOOR = -16.0  # an absent object's logits are -1024, beside which nothing else would count
STARTS = {0: 0, 1: 7}  # object -> the frame from which it is tracked

SMALL: dict[str, Any] = dict(
    image_size=SIDE,
    prompt_encoder_config=dict(hidden_size=128, image_size=SIDE, patch_size=16,
                               mask_input_channels=8),
    mask_decoder_config=dict(hidden_size=128, mlp_dim=48, num_attention_heads=4,
                             iou_head_hidden_dim=32),
    num_maskmem=4, max_object_pointers_in_encoder=6,
    memory_attention_hidden_size=128, memory_attention_num_layers=2,
    memory_attention_rope_feat_sizes=[4, 4], memory_encoder_hidden_size=128,
    memory_encoder_output_channels=64, mask_downsampler_embed_dim=128,
    memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=48,
)  # fmt: skip

SIZES = [[16, 16], [8, 8], [4, 4]]


def video() -> np.ndarray:
    """A pattern that moves, with noise: [1, T, H, W, 3]."""
    noise = images(SIDE, SIDE, batch=1, frames=FRAMES, seed=5)
    y, x = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    wave = [np.sin((x + 2 * t) / 7) * np.cos((y - t) / 9) for t in range(FRAMES)]
    return (0.5 * noise + 1.5 * np.stack(wave)[None, ..., None]).astype(np.float32)


def theirs(reference: Any, session: Any, frames: np.ndarray) -> dict[str, list[np.ndarray]]:
    """The reference, frame by frame -> name -> list over frames (objects it had then)."""
    import torch

    found: dict[str, list[np.ndarray]] = {"masks": [], "scores": [], "pointer": [], "memory": []}
    for t in range(FRAMES):
        if t in PROMPTS:
            which, points, labels, mask = PROMPTS[t]
            index = session.obj_id_to_idx(which)
            if mask is None:
                given = {
                    "point_coords": torch.tensor([[points]]),
                    "point_labels": torch.tensor([[labels]], dtype=torch.int32),
                }
                session.add_point_inputs(index, t, given)
            else:
                session.add_mask_inputs(index, t, torch.from_numpy(mask)[None, None])
            session.obj_with_new_inputs = [which]
        out = reference(session, frame=to_torch(frames[:, t]))
        found["masks"].append(out.pred_masks[:, 0].numpy())
        found["scores"].append(out.object_score_logits.reshape(-1).numpy())
        kept = []
        for index in range(session.get_obj_num()):
            tracks = session.output_dict_per_obj[index]
            kept.append(tracks["cond_frame_outputs"].get(t) or tracks["non_cond_frame_outputs"][t])
        found["pointer"].append(np.stack([k["object_pointer"].reshape(-1).numpy() for k in kept]))
        memories = [k["maskmem_features"].float() for k in kept]
        found["memory"].append(np.stack([m.reshape(-1, m.shape[-1]).numpy() for m in memories]))
    return found


def ours(module: Any, variables: Any, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Ours, frame by frame with one compiled step -> name -> [T, O, ...]."""
    import jax

    from streamzoo.zoo.segment.stream import no_prompts

    c = module.config

    @jax.jit
    def step(carry, frame, prompts):
        taps = ("pointer", "memory")
        return module.apply(variables, carry, frame, None, prompts, taps)

    carry = module.init_carry(1)
    found: dict[str, list[np.ndarray]] = {"masks": [], "scores": [], "pointer": [], "memory": []}
    for t in range(FRAMES):
        prompts: Any = no_prompts(1, 1, c.objects, c.points, c.image_size)
        if t in PROMPTS:
            which, points, labels, mask = PROMPTS[t]
            if mask is None:
                prompts.points[0, 0, which, : len(points)] = points
                prompts.labels[0, 0, which, : len(points)] = labels
                prompts.pointed[0, 0, which] = True
            else:
                prompts.masks[0, 0, which] = mask
                prompts.masked[0, 0, which] = True
        carry, out = step(carry, frames[:, t : t + 1], prompts)
        for name, value in (("masks", out.masks), ("scores", out.scores), *out.taps.items()):
            found[name].append(np.asarray(value, np.float32)[0, 0])
    return {name: np.stack(value) for name, value in found.items()}


def streamed(reference: Any, session: Any, module: Any, variables: Any) -> dict:
    return paired(theirs(reference, session, video()), module, variables)


def paired(want: dict[str, list[np.ndarray]], module: Any, variables: Any) -> dict:
    """The arrays of both objects over the frames in which they are tracked."""
    got = ours(module, variables, video())
    return {name: (mine(got, name), truth) for name, truth in by_object(want).items()}


def by_object(found: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """name -> list over frames (objects there were then)  ->  "name object" -> [T, ...]."""
    return {
        f"{name} {which}": np.maximum(np.stack([v[which] for v in value[start:]]), FLOOR)
        for name, value in found.items()
        for which, start in STARTS.items()
    }


def mine(got: dict[str, np.ndarray], key: str) -> np.ndarray:
    """What :func:`ours` has of "name object"."""
    name, which = key.rsplit(" ", 1)
    return np.maximum(got[name][STARTS[int(which)] :, int(which)], FLOOR)


def at_scale(model: Any, score: float) -> Any:
    """Lively weights, memory that matters, and an object that is there in some frames only."""
    import torch

    lively(model, scale=5.0)
    torch.manual_seed(7)
    with torch.no_grad():
        for name in ("no_memory_embedding", "no_object_pointer"):
            getattr(model, name).normal_()
        model.memory_temporal_positional_encoding.normal_()
        if model.occlusion_spatial_embedding_parameter is not None:
            model.occlusion_spatial_embedding_parameter.normal_()
        for layer in model.memory_encoder.memory_fuser.layers:
            layer.scale.normal_()
        for embedding in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
            embedding.positional_embedding.copy_(
                torch.randn(2, 64, generator=torch.Generator().manual_seed(3)) / 3
            )
        for parameter in model.mask_decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.5)
        model.mask_decoder.pred_obj_score_head.proj_out.bias.add_(score)
    return model


# --- SAM 2 -----------------------------------------------------------------------------------


def build_sam2(score: float = 2.5, **fields: Any) -> Any:
    import transformers

    trunk = dict(
        model_type="sam2_hiera_det_model", hidden_size=8, embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8], blocks_per_stage=[1, 1, 2, 1],
        window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[3, 3], image_size=[SIDE, SIDE],
    )  # fmt: skip
    vision = dict(
        backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=SIZES, fpn_hidden_size=128,
    )  # fmt: skip
    config = transformers.Sam2VideoConfig(
        vision_config=dict(model_type="sam2_vision_model", **vision),
        memory_attention_feed_forward_hidden_size=96,
        **(SMALL | fields),
    )
    return at_scale(transformers.Sam2VideoModel(config), score)


def compare_sam2(reference: Any, module: Any, variables: Any, memory: str = "float32") -> dict:
    """The reference keeps memories in bf16. A rounding that falls the other way there is 4e-3, so
    both sides keep fp32, but in one row."""
    import torch
    from transformers import Sam2VideoInferenceSession

    # transformers binarises the masks of all objects in a frame where one is prompted, and takes
    # the pointer of a mask prompt from the best of three masks
    config = dataclasses.replace(
        module.config, objects=3, points=2, binarize="any", mask_memory="given",
        mask_pointer="best",
        memory_dtype=memory,
    )  # fmt: skip
    session = Sam2VideoInferenceSession(dtype=torch.float32)
    with mock.patch.object(torch, "bfloat16", getattr(torch, memory)):
        return streamed(reference, session, module.clone(config=config), variables)


# --- EdgeTAM ---------------------------------------------------------------------------------


def build_edgetam() -> Any:
    import transformers

    from .rows_conv import settle

    trunk = dict(
        model_type="timm_wrapper", architecture="repvit_m1.dist_in1k", num_classes=0,
        model_args=dict(features_only=True, out_indices=[0, 1, 2, 3], in_chans=3),
    )  # fmt: skip
    vision = dict(
        backbone_config=trunk, backbone_channel_list=[384, 192, 96, 48],
        backbone_feature_sizes=SIZES, fpn_hidden_size=128,
    )  # fmt: skip
    config = transformers.EdgeTamVideoConfig(
        vision_config=dict(model_type="edgetam_vision_model", **vision),
        memory_attention_mlp_hidden_size=96,
        memory_attention_rope_k_sizes=[2, 2],
        perceiver_resampler_num_latents=6,
        perceiver_resampler_num_latents_2d=4,
        perceiver_resampler_mlp_intermediate_size=40,
        **SMALL,
    )
    model = at_scale(transformers.EdgeTamVideoModel(config), 3.2)
    body = model.vision_encoder.backbone
    for parameter in body.parameters():
        if parameter.ndim > 1:
            parameter.data.div_(5.0)
    settle(body, to_torch(images(SIDE, SIDE, batch=8, seed=3)))
    inner = model._use_mask_as_output

    def with_all_axes(*args: Any) -> Any:
        """The reference loses one here and cannot track another object in the same frame."""
        out = inner(*args)
        out.object_score_logits = out.object_score_logits.reshape(1, 1, 1)
        return out

    model._use_mask_as_output = with_all_axes
    return model.eval()


def compare_edgetam(reference: Any, module: Any, variables: Any) -> dict:
    import torch
    from transformers import EdgeTamVideoInferenceSession

    config = dataclasses.replace(
        module.config, objects=3, points=2, mask_pointer="best", mask_memory="given"
    )
    session = EdgeTamVideoInferenceSession(dtype=torch.float32)
    return streamed(reference, session, module.clone(config=config), variables)


ROWS = [
    Row("edgetam-m1", "transformers EdgeTamVideoModel", build_edgetam, compare_edgetam, FRAMES),
    Row("sam2.1video", "transformers Sam2VideoModel", build_sam2, compare_sam2, FRAMES),
    Row(
        "sam2.1video bf16 memories",
        "transformers Sam2VideoModel",
        build_sam2,
        lambda *given: compare_sam2(*given, memory="bfloat16"),
        FRAMES,
        tolerance=3e-2,
    ),
    Row(
        "sam2video",
        "transformers Sam2VideoModel, as SAM 2",
        lambda: build_sam2(
            enable_occlusion_spatial_embedding=False,
            enable_temporal_pos_encoding_for_object_pointers=False,
        ),
        compare_sam2,
        FRAMES,
    ),
]


# --- EfficientTAM ----------------------------------------------------------------------------

EFFICIENTTAM = dict(image_size=SIDE, num_attention_heads=3, window_size=3, global_blocks=[1, 3],
                    max_pointers=6)  # fmt: skip


def save_efficienttam(stored: Any, folder: Path) -> None:
    from safetensors.numpy import save_file

    from .golden_efficienttam import SPECIAL

    save_file(draw(stored[0], SPECIAL), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(EFFICIENTTAM))


def compare_efficienttam(stored: Any, module: Any, variables: Any) -> dict:
    from .golden_efficienttam import thinned

    # the stored numbers are of single steps of the model, which takes a mask as it is given
    config = dataclasses.replace(
        module.config, objects=3, points=2, memory_dtype="float32", binarize="points",
        mask_memory="given",
    )  # fmt: skip
    got = ours(module.clone(config=config), variables, video())
    return {key: (thinned(key, mine(got, key)), truth) for key, truth in stored[1].items()}


ROWS.append(
    Row(
        "efficienttam",
        "efficient-track-anything SAM2Base, EfficientRoPEAttention1 (stored numbers)",
        lambda: read("efficienttam"),
        compare_efficienttam,
        FRAMES,
        save=save_efficienttam,
    )
)
