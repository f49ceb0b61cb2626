"""Rows of the vision transformers: every block's output and attention, the features, the vector."""

from __future__ import annotations

from functools import partial
from typing import Any

from .golden import draw, read
from .harness import Row, images, lively, run, to_torch

TAPS = ("embedding", "hidden", "attention")
TINY = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4)


def build(kind: str, config: str, scale: float = 3.0, **fields: Any) -> Any:
    """A lively model of transformers with attention maps that can be read.

    scale: of the matrices; 1 where they start large (SigLIP, VideoPrism: 1 / sqrt(fan in)) and
    more of it makes attention pick single tokens, which magnifies rounding
    """
    import transformers

    made = getattr(transformers, config)(**fields)
    made._attn_implementation = "eager"
    return lively(getattr(transformers, kind)(made), scale=scale)


def compare(
    reference, module, variables, *, sizes, prefix, call=None, final="last_hidden_state"
) -> dict:
    """All intermediates on frames of several sizes.

    prefix: tokens in front of the patches
    call:   (reference, frames) -> its output with hidden states and attentions
    """
    pairs: dict = {}
    for height, width in sizes:
        frames = images(height, width)
        want = (call or plain)(reference, frames)
        out = run(module, variables, frames, taps=TAPS)
        name = f"{height}x{width} "
        pairs[name + "embedding"] = (out.taps["embedding"], want.hidden_states[0])
        for i, rows in enumerate(want.attentions):
            pairs[f"{name}attention {i}"] = (out.taps["attention"][i], rows)
            pairs[f"{name}hidden {i}"] = (out.taps["hidden"][i], want.hidden_states[i + 1])
        tokens = getattr(want, final)
        features = out.features.reshape(len(frames), -1, out.features.shape[-1])
        pairs[name + "features"] = (features, tokens[:, prefix:])
        if prefix:
            pairs[name + "prefix"] = (out.prefix, tokens[:, :prefix])
        if out.pooled is not None:
            pairs[name + "pooled"] = (out.pooled, want.pooler_output)
    return pairs


def plain(reference, frames, **more):
    return reference(to_torch(frames), output_hidden_states=True, output_attentions=True, **more)


def clip(reference, frames):
    """The image tower of a model with two, its vector projected where the model does that."""
    tower = reference.vision_model
    want = plain(tower, frames, interpolate_pos_encoding=True)
    if hasattr(reference, "visual_projection"):
        want.pooler_output = reference.visual_projection(want.pooler_output)
    return want


def naflex(reference, frames):
    """SigLIP 2 takes rows of patches, row by row, the colours last."""
    import torch

    tower = reference.vision_model
    p = tower.config.patch_size
    batch, height, width, _ = frames.shape
    rows, cols = height // p, width // p
    patches = frames.reshape(batch, rows, p, cols, p, 3).swapaxes(2, 3)
    return tower(
        torch.from_numpy(patches.reshape(batch, rows * cols, -1).copy()),
        pixel_attention_mask=torch.ones(batch, rows * cols, dtype=torch.long),
        spatial_shapes=torch.tensor([[rows, cols]] * batch),
        output_hidden_states=True,
        output_attentions=True,
    )


def compare_packed(reference, module, variables) -> dict:
    """A padded batch of frames of three shapes, their tokens one after another."""
    import numpy as np
    import torch

    from streamzoo.zoo.encode.siglip.naflex import encode_packed, pack

    frames = [images(h, w, batch=1, seed=h)[0] for h, w in ((64, 64), (32, 112), (80, 48))]
    patches, shapes = pack(frames, 16, 20)
    counts = shapes.prod(axis=1)
    keep = np.arange(20) < counts[:, None]
    want = reference.vision_model(
        torch.from_numpy(patches),
        pixel_attention_mask=torch.from_numpy(keep.astype(np.int64)),
        spatial_shapes=torch.from_numpy(shapes.astype(np.int64)),
        output_hidden_states=True,
        output_attentions=True,
    )
    patches[~keep] = 1e3  # padding that may not count
    out = run(module, variables, patches, shapes, method=encode_packed, taps=TAPS)
    pairs = {"embedding": (out.taps["embedding"][keep], want.hidden_states[0][keep])}
    for i, rows in enumerate(want.attentions):
        ours, theirs = out.taps["attention"][i].swapaxes(1, 2), rows.swapaxes(1, 2)
        pairs[f"attention {i}"] = (ours[keep], theirs[keep])
        pairs[f"hidden {i}"] = (out.taps["hidden"][i][keep], want.hidden_states[i + 1][keep])
    pairs["features"] = (out.features[keep], want.last_hidden_state[keep])
    pairs["pooled"] = (out.pooled, want.pooler_output)
    return pairs


def radio(reference, frames):
    """RADIO normalises inside; our frames come normalised."""
    mean, std = reference.config.norm_mean, reference.config.norm_std
    want = plain(reference, (frames * std + mean).astype("float32"))
    want.pooler_output = want.summary
    return want


def save_radio_heads(stored, folder) -> None:
    """With heads, in the layout of the checkpoints whose code is their own."""
    import json

    from safetensors.numpy import save_file

    from .golden_radio import SPECIAL

    save_file(draw(stored[0], SPECIAL), folder / "model.safetensors")
    config = {k: v for k, v in RADIO.items() if k != "summary_idxs"} | {"model_type": "radio"}
    (folder / "config.json").write_text(json.dumps(config | {"adaptor_configs": HEADS}))


def compare_radio_heads(stored, module, variables) -> dict:
    out = run(module, variables, images(48, 64))
    return {key: (getattr(out[key.split()[0]], key.split()[1]), x) for key, x in stored[1].items()}


def convert_named(name: str, folder):
    from streamzoo.zoo.convert import convert_checkpoint
    from streamzoo.zoo.registry import create_model

    plan, variables = convert_checkpoint(folder, name)
    return create_model(plan.model, **plan.overrides), variables


def compare_dual(reference, module, variables, *, kind: str) -> dict:
    """The text tower, the logits and the loss of matching pairs."""
    import numpy as np
    import torch

    from streamzoo.zoo.encode.dual import model as dual

    frames = images(64, 64, batch=3)
    tokens = np.random.default_rng(1).integers(3, 48, (3, 9))
    tokens[:, 6] = 49  # the end: the highest number
    ids = torch.from_numpy(tokens)
    want = reference.text_model(ids, output_hidden_states=True, output_attentions=True)
    out = run(module, variables, tokens, method=lambda m, t: m.text(t, taps=TAPS))
    pairs = {"text embedding": (out.taps["embedding"], want.hidden_states[0])}
    for i, rows in enumerate(want.attentions):
        pairs[f"text attention {i}"] = (out.taps["attention"][i], rows)
        pairs[f"text hidden {i}"] = (out.taps["hidden"][i], want.hidden_states[i + 1])
    pairs["text features"] = (out.features, want.last_hidden_state)
    vector = want.pooler_output
    if kind == "clip":
        vector = reference.text_projection(vector)
    pairs["text pooled"] = (out.pooled, vector)
    if kind == "siglip2":
        rows = frames.reshape(3, 4, 16, 4, 16, 3).swapaxes(2, 3).reshape(3, 16, -1)
        shown = dict(
            pixel_values=torch.from_numpy(rows.copy()),
            pixel_attention_mask=torch.ones(3, 16, dtype=torch.long),
            spatial_shapes=torch.tensor([[4, 4]] * 3),
        )
    else:
        shown = dict(pixel_values=to_torch(frames))
    both = reference(input_ids=ids, return_loss=True, **shown)
    logits = run(module, variables, frames, tokens)
    loss = dual.softmax_pair_loss if kind == "clip" else dual.sigmoid_pair_loss
    pairs["logits"] = (logits, both.logits_per_image)
    pairs["logits and loss"] = (
        np.append(np.asarray(logits).ravel(), loss(logits)),
        np.append(both.logits_per_image.numpy().ravel(), both.loss),
    )
    return pairs


def recorded(layers) -> tuple[list, list]:
    """Lists that fill with every layer's output and attention while the reference runs."""
    outputs, rows = [], []

    def keep(to, pick):
        return lambda module, inputs, output: to.append(pick(output))

    for layer in layers:
        layer.register_forward_hook(keep(outputs, lambda y: y[0] if isinstance(y, tuple) else y))
        layer.attention.register_forward_hook(keep(rows, lambda y: y[1]))
    return outputs, rows


def compare_vjepa2(reference, module, variables) -> dict:
    frames = images(64, 64, frames=4)
    outputs, rows = recorded(reference.encoder.layer)
    want = reference(to_torch(frames), skip_predictor=True).last_hidden_state
    out = run(module, variables, frames, taps=TAPS)
    pairs = {"features": (out.features.reshape(want.shape), want)}
    for i in range(len(outputs)):
        pairs[f"hidden {i}"] = (out.taps["hidden"][i], outputs[i])
        pairs[f"attention {i}"] = (out.taps["attention"][i], rows[i])
    single = reference(to_torch(frames[:, :1]), skip_predictor=True).last_hidden_state
    ours = run(module, variables, frames[:, :1])
    pairs["one frame"] = (ours.features.reshape(single.shape), single)
    return pairs


def compare_videoprism(reference, module, variables) -> dict:
    pairs: dict = {}
    spatial, spatial_rows = recorded(reference.spatial_layers)
    temporal, temporal_rows = recorded(reference.temporal_layers)
    taps = ("spatial", "spatial_attention", "temporal", "temporal_attention")
    for height, width, steps in ((72, 72, 4), (54, 90, 6)):
        frames = images(height, width, frames=steps)
        for kept in (spatial, spatial_rows, temporal, temporal_rows):
            kept.clear()
        want = reference(to_torch(frames), interpolate_pos_encoding=True).last_hidden_state
        out = run(module, variables, frames, taps=taps)
        name = f"{height}x{width} "
        pairs[name + "features"] = (out.features.reshape(want.shape), want)
        groups = [
            ("spatial", spatial),
            ("spatial_attention", spatial_rows),
            ("temporal", temporal),
            ("temporal_attention", temporal_rows),
        ]
        for tap, kept in groups:
            for i, theirs in enumerate(kept):
                pairs[f"{name}{tap} {i}"] = (out.taps[tap][i].reshape(theirs.shape), theirs)
    return pairs


def row(name: str, kind: str, config: str, fields: dict, **how: Any) -> Row:
    return Row(
        name,
        f"transformers {kind}",
        partial(build, kind, config, **fields),
        partial(compare, **how),
    )


DINOV2 = TINY | dict(image_size=56, patch_size=14)
DINOV3 = TINY | dict(image_size=64, patch_size=16, num_register_tokens=4, intermediate_size=160)
WIDE = TINY | dict(intermediate_size=160)
TEXT = WIDE | dict(vocab_size=50, max_position_embeddings=12)
VISION = WIDE | dict(image_size=64, patch_size=16)
SIGLIP2 = dict(
    scale=1.0,
    vision_config=WIDE | dict(num_patches=16, patch_size=16),
    text_config=WIDE | dict(vocab_size=50),
)
DUAL = [
    (
        "clip",
        "b32",
        "CLIP",
        3.0,
        dict(vision_config=VISION, text_config=TEXT | dict(eos_token_id=2), projection_dim=24),
    ),
    ("siglip", "b16", "Siglip", 1.0, dict(vision_config=VISION, text_config=TEXT)),
    (
        "siglip2",
        "b16",
        "Siglip2",
        1.0,
        dict(vision_config=WIDE | dict(num_patches=16, patch_size=16), text_config=TEXT),
    ),
]
RADIO: dict[str, Any] = TINY | dict(
    max_img_size=128, patch_size=16, num_cls_tokens=3, num_registers=5, summary_idxs=[0, 1, 2]
)
HEADS = {
    "clip": {
        "head_idx": 2,
        "summary": dict(input_size=64, hidden_size=40, output_size=24, num_inner=2),
        "feature": dict(input_size=64, hidden_size=32, output_size=20, num_inner=0),
    },
    "sam": {
        "head_idx": 0,
        "summary": dict(input_size=64, hidden_size=24, output_size=16, num_inner=0),
        "feature": dict(input_size=64, hidden_size=24, output_size=48, num_inner=1)
        | {"upsample_factor": 2},
    },
}
ODD = [(56, 56), (42, 98)]  # the table's own grid, and another
SQUARE = [(64, 64), (48, 96)]

ROWS: list[Row] = [
    row("dinov2-s14", "Dinov2Model", "Dinov2Config", DINOV2, sizes=ODD, prefix=1),
    row(
        "dinov2-g14",
        "Dinov2Model",
        "Dinov2Config",
        DINOV2 | dict(use_swiglu_ffn=True),
        sizes=ODD[1:],
        prefix=1,
    ),
    row(
        "dinov2reg-s14",
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        DINOV2,
        sizes=ODD,
        prefix=5,
    ),
    row("dinov3-s16", "DINOv3ViTModel", "DINOv3ViTConfig", DINOV3, sizes=SQUARE, prefix=5),
    row(
        "dinov3-h16plus",
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        DINOV3 | dict(use_gated_mlp=True, hidden_act="silu", num_register_tokens=2),
        sizes=SQUARE[1:],
        prefix=3,
    ),
    row(
        "eupe-t16",
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        DINOV3 | dict(hidden_size=48, num_attention_heads=3),
        sizes=SQUARE[1:],
        prefix=5,
    ),
    row(
        "clip-b32",
        "CLIPModel",
        "CLIPConfig",
        dict(vision_config=VISION, text_config=WIDE | dict(vocab_size=50), projection_dim=24),
        sizes=SQUARE,
        prefix=1,
        call=clip,
    ),
    row(
        "siglip-b16",
        "SiglipModel",
        "SiglipConfig",
        dict(scale=1.0, vision_config=VISION, text_config=WIDE | dict(vocab_size=50)),
        sizes=SQUARE,
        prefix=0,
        call=clip,
    ),
    row(
        "siglip2-b16",
        "Siglip2Model",
        "Siglip2Config",
        SIGLIP2,
        sizes=SQUARE,
        prefix=0,
        call=naflex,
    ),
    Row(
        "siglip2-b16 packed",
        "transformers Siglip2Model, padded frames of three shapes",
        partial(
            build,
            "Siglip2Model",
            "Siglip2Config",
            **SIGLIP2,
        ),
        compare_packed,
    ),
    row(
        "radio-h16",
        "RadioModel",
        "RadioConfig",
        RADIO | dict(summary_idxs=[0, 2]),
        sizes=SQUARE,
        prefix=8,
        call=radio,
    ),
    Row(
        "radio-adapted-h16",
        "NVlabs/RADIO MLP2 on transformers RadioModel (stored numbers)",
        lambda: read("radio_heads"),
        compare_radio_heads,
        save=save_radio_heads,
        convert=partial(convert_named, "radio-adapted"),
    ),
    Row(
        "vjepa2-l16",
        "transformers VJEPA2Model",
        partial(
            build,
            "VJEPA2Model",
            "VJEPA2Config",
            **TINY,
            crop_size=64,
            patch_size=16,
            frames_per_clip=4,
            pred_hidden_size=32,
            pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
        ),
        compare_vjepa2,
        frames=4,
    ),
    Row(
        "videoprism-b18",
        "transformers VideoPrismVisionModel",
        partial(
            build,
            "VideoPrismVisionModel",
            "VideoPrismVisionConfig",
            scale=1.0,
            hidden_size=64,
            num_spatial_layers=2,
            num_temporal_layers=2,
            num_attention_heads=4,
            intermediate_size=160,
            image_size=72,
            num_frames=4,
            tubelet_size=[1, 18, 18],
        ),
        compare_videoprism,
        frames=6,
    ),
    *(
        Row(
            f"{kind}-dual-{size}",
            f"transformers {model}",
            partial(build, f"{model}Model", f"{model}Config", scale=scale, **fields),
            partial(compare_dual, kind=kind),
            convert=partial(convert_named, "clip-dual" if kind == "clip" else "siglip-dual"),
        )
        for kind, size, model, scale, fields in DUAL
    ),
]
