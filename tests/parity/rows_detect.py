"""Rows of the detectors that read a text."""

from __future__ import annotations

from typing import Any

import numpy as np

from .harness import Row, images, lively, run, to_torch

PROMPTS = (
    [101, 200, 201, 1012, 300, 1012, 301, 302, 303, 1012, 102],
    [101, 310, 1012, 102, 0, 0, 0, 0, 0, 0, 0],
)


def grounding(blocks: int = 2) -> Any:
    """Grounding DINO of three levels, whose windows do not fill their maps."""
    import transformers

    shape: dict[str, Any] = dict(depths=[1, blocks, 2], num_heads=[2, 2, 4], out_indices=[2, 3])
    trunk = transformers.SwinConfig(embed_dim=16, window_size=4, **shape)
    words = transformers.BertConfig(
        vocab_size=1100, hidden_size=32, num_hidden_layers=blocks, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=24,
    )  # fmt: skip
    config = transformers.GroundingDinoConfig(
        backbone_config=trunk, text_config=words, num_queries=12, encoder_layers=blocks,
        decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=48, d_model=32,
        encoder_attention_heads=4, decoder_attention_heads=4, num_feature_levels=3,
        max_text_len=24, encoder_n_points=2, decoder_n_points=3,
    )  # fmt: skip
    return _one_head(lively(transformers.GroundingDinoForObjectDetection(config), scale=2.0))


def published() -> Any:
    """The tiny model as it is published."""
    import transformers

    config = transformers.GroundingDinoConfig()
    return _one_head(lively(transformers.GroundingDinoForObjectDetection(config), scale=1.2))


def _one_head(model: Any) -> Any:
    # the two are one in the file; in memory they are apart when they are changed
    model.model.decoder.bbox_embed = model.bbox_embed
    return model


def compare_grounding(reference: Any, module: Any, variables: Any) -> dict:
    """Text, pyramid and all queries, of two frames with a prompt each."""
    import torch

    frames, tokens = images(60, 88), np.asarray(PROMPTS)
    seen = torch.from_numpy(tokens)
    want = reference(to_torch(frames), seen, attention_mask=(seen != 0).long())
    got = run(module, variables, frames, tokens.astype(np.int32), method=whole)
    there = tokens != 0
    logits = want.logits[:, :, : tokens.shape[1]].numpy()
    return {
        "text": (got["text"][there], want.encoder_last_hidden_state_text[torch.from_numpy(there)]),
        "cells": (got["cells"], want.encoder_last_hidden_state_vision),
        "boxes": (got["boxes"], want.pred_boxes),
        "logits": tuple(
            np.concatenate([np.asarray(a)[i][:, there[i]].ravel() for i in range(2)])
            for a in (got["logits"], logits)
        ),
    }


def whole(module: Any, frames: Any, tokens: Any) -> dict:
    """What there is to compare, of one pass."""
    from streamzoo.zoo.detect.grounding.phrases import read_phrases

    phrases = read_phrases(tokens)
    cells, text, sizes = module.fused(frames, module.encode_text(tokens), phrases)
    found = module.decoded(cells, text, sizes, phrases)
    return {"text": text, "cells": cells, "boxes": found.boxes, "logits": found.logits}


def compare_published(reference: Any, module: Any, variables: Any) -> dict:
    """The encoder, the scores of its cells, and the decoder from the reference's own choice.

    Which 900 of 1,149 cells are best, and in what order, hangs on the last digits of their scores;
    and a query's own vector is given by its place in that order.
    """
    import torch

    frames, tokens = images(192, 288), np.asarray(PROMPTS)
    seen = torch.from_numpy(tokens)
    want = reference(to_torch(frames), seen, attention_mask=(seen != 0).long())
    given = [
        np.asarray(a)
        for a in (
            want.encoder_last_hidden_state_vision, want.encoder_last_hidden_state_text,
            want.init_reference_points,
        )
    ]  # fmt: skip
    got = run(module, variables, frames, tokens.astype(np.int32), *given, method=parts)
    there = tokens != 0
    score = want.enc_outputs_class.max(dim=-1).values
    words = lambda a: np.concatenate(
        [np.asarray(a)[i][:, : len(t)][:, t].ravel() for i, t in enumerate(there)]
    )
    return {
        "text": (got["text"][there], want.encoder_last_hidden_state_text[torch.from_numpy(there)]),
        "cells": (got["cells"], want.encoder_last_hidden_state_vision),
        "scores": (got["scores"], score),
        "boxes": (got["boxes"], want.pred_boxes),
        "logits": (words(got["logits"]), words(want.logits)),
    }


def parts(module: Any, frames: Any, tokens: Any, cells: Any, text: Any, start: Any) -> dict:
    """The encoder, and what the reference's ``cells``, ``text`` and ``start`` become."""
    from streamzoo.zoo.detect.grounding.model import alike
    from streamzoo.zoo.detect.grounding.phrases import read_phrases

    phrases = read_phrases(tokens)
    own, words, sizes = module.fused(frames, module.encode_text(tokens), phrases)
    scores = alike(module.proposals(cells, sizes)[0], text, phrases.valid).max(axis=-1)
    x = module.queries[None].repeat(len(cells), axis=0)
    x, boxes = module.decoder(x, start, text, phrases.valid, cells, sizes)
    logits = alike(x, text, phrases.valid)
    return {"text": words, "cells": own, "scores": scores, "boxes": boxes, "logits": logits}


ROWS = [
    Row(
        "groundingdino-t",
        "transformers GroundingDinoForObjectDetection",
        grounding,
        compare_grounding,
    ),
]
