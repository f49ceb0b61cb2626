"""The row of SAM 3, which is asked for a concept by words and by boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .harness import Row, images, lively, run, to_torch

TOKENS = ([58, 7, 8, 9, 59], [58, 5, 59, -1, -1])  # -1 where there is none
BOXES = np.asarray(
    [[[0.1, 0.2, 0.45, 0.9], [0.5, 0.1, 0.9, 0.3]], [[0.3, 0.3, 1.0, 0.95], [0.0, 0.0, 0.0, 0.0]]],
    np.float32,
)  # x1, y1, x2, y2
KINDS = ([1, 0], [1, -1])


def tiny() -> dict[str, Any]:
    """A config whose windows do not fill the map, which is not a multiple of the position table."""
    part = dict(hidden_size=32, num_layers=2, num_attention_heads=4, intermediate_size=48)
    trunk = dict(
        model_type="sam3_vit_model", hidden_size=16, intermediate_size=40, num_hidden_layers=4,
        num_attention_heads=2, image_size=84, patch_size=14, window_size=4,
        global_attn_indexes=[1, 3], pretrain_image_size=56,
    )  # fmt: skip
    text = dict(
        model_type="clip_text_model", vocab_size=60, hidden_size=16, intermediate_size=24,
        projection_dim=8, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=12,
        hidden_act="gelu", bos_token_id=58, eos_token_id=59, pad_token_id=0,
    )  # fmt: skip
    return dict(
        vision_config=dict(
            backbone_config=trunk, fpn_hidden_size=32,
            backbone_feature_sizes=[[24, 24], [12, 12], [6, 6]],
        ),
        text_config=text,
        geometry_encoder_config=dict(**part, roi_size=3),
        detr_encoder_config=part,
        detr_decoder_config=dict(**part, num_queries=10),
        mask_decoder_config=dict(hidden_size=32, num_attention_heads=4),
    )  # fmt: skip


def concepts() -> Any:
    """The detector of a tiny config."""
    import transformers

    return lively(transformers.Sam3Model(transformers.Sam3Config(**tiny())), scale=6.0)


def asked(reference: Any, frames: np.ndarray, exemplars: bool) -> Any:
    """The reference's answer for two frames with a concept each."""
    import torch

    tokens = np.asarray(TOKENS)
    more = {}
    if exemplars:
        middle = [(BOXES[..., :2] + BOXES[..., 2:]) / 2, BOXES[..., 2:] - BOXES[..., :2]]
        kinds = np.where(np.asarray(KINDS) < 0, -10, np.asarray(KINDS))
        more = dict(
            input_boxes=torch.from_numpy(np.concatenate(middle, axis=-1)),
            input_boxes_labels=torch.from_numpy(kinds),
        )
    return reference(
        pixel_values=to_torch(frames), input_ids=torch.from_numpy(np.maximum(tokens, 0)),
        attention_mask=torch.from_numpy((tokens >= 0).astype(np.int64)), **more,
    )  # fmt: skip


def compare_concepts(reference: Any, module: Any, variables: Any) -> dict:
    """Maps, words, exemplars and all queries, with a concept in words alone and with boxes."""
    import torch

    frames, tokens = images(*module.config.image_size), np.asarray(TOKENS, np.int32)
    there, pairs = tokens >= 0, {}
    for name, exemplars in (("words", False), ("boxes", True)):
        want = asked(reference, frames, exemplars)
        shown = (BOXES[:, None], np.asarray(KINDS)[:, None]) if exemplars else ()
        got = run(module, variables, frames, module.ask(tokens[:, None], *shown), method=whole)
        pairs |= {
            f"{name}: {part}": (got[part], value)
            for part, value in {
                "masks": want.pred_masks, "boxes": want.pred_boxes, "logits": want.pred_logits,
                "presence": want.presence_logits[:, 0], "area": want.semantic_seg[:, 0],
            }.items()
        }  # fmt: skip
        if not exemplars:
            vision = reference.get_vision_features(to_torch(frames)).fpn_hidden_states
            for i in range(3):
                pairs[f"map {i}"] = (got[f"map {i}"], vision[i].permute(0, 2, 3, 1))
            ids = torch.from_numpy(np.maximum(tokens, 0))
            text = reference.get_text_features(ids, torch.from_numpy(there.astype(np.int64)))
            text = text.pooler_output[torch.from_numpy(there)]
            words = np.asarray(got["prompt"])[:, : tokens.shape[1]][there]
            pairs["words"] = (words, text)
    return pairs


def whole(module: Any, frames: Any, carry: Any) -> dict:
    """What there is to compare, of one pass over a frame of each stream."""
    import jax.numpy as jnp

    maps = module.pyramid(frames)
    prompt = module.encode_prompt(carry, maps[2])[:, 0]
    found = module.raw(maps, prompt, carry.there[:, 0])
    labels = jnp.zeros(found.logits.shape, jnp.int32)
    masks = module.mask_logits(found.queries, labels, found.pixels[:, None])
    return {
        "masks": masks, "boxes": found.boxes, "logits": found.logits, "area": found.area,
        "presence": found.presence, "prompt": prompt,
        **{f"map {i}": a for i, a in enumerate(maps)},
    }  # fmt: skip


ROWS = [Row("sam3-l14", "transformers Sam3Model", concepts, compare_concepts)]
