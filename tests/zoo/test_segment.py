"""Segment-anything image models: prompts, choice of masks, converters, wrong input.

That the numbers are those of the reference implementations is tests/parity/rows_segment.py.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.positions import resize_cubic
from streamzoo.zoo import load, model_config, save
from streamzoo.zoo.convert import ConvertError, convert, convert_checkpoint, detect_converter
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.segment import Sam, Sam2, Sam2Config, SamConfig
from streamzoo.zoo.segment.decoder import (
    DecoderConfig,
    MaskDecoder,
    Masks,
    all_masks,
    best_mask,
    one_mask,
    pick,
)
from streamzoo.zoo.segment.hiera import HieraConfig
from streamzoo.zoo.segment.neck import from_windows, sine_positions, to_windows
from streamzoo.zoo.segment.prompt import (
    FourierPositions,
    PromptConfig,
    PromptEncoder,
    check_prompts,
)
from streamzoo.zoo.segment.sam2.convert import HIERA as PUBLISHED
from streamzoo.zoo.segment.sam2.convert import hiera_overrides, sam2_size
from streamzoo.zoo.segment.segmenter import EFFICIENTSAM_DECODER
from streamzoo.zoo.segment.sizes import HIERA_SIZES, SAM_SIZES
from streamzoo.zoo.segment.window_vit import WindowVitConfig

HIERA = HieraConfig(
    (8, 16, 32, 64), (1, 2, 4, 8), (1, 1, 1, 1), (2, 2, 2, 2), (), background=(2, 2)
)
DECODER = DecoderConfig(dim=32, heads=4, hidden=32, iou_hidden=16)
SAM2 = Sam2(Sam2Config(image_size=(64, 64), trunk=HIERA, decoder=DECODER, mask_channels=8))
VIT = WindowVitConfig(16, 2, 2, image_size=(64, 64), window=3, global_blocks=(1,), patch=16,
                      position_grid=(4, 4))  # fmt: skip
FRAME = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
POINTS = np.asarray([[[[10.0, 20.0], [40.0, 9.0]]]], np.float32)
LABELS = np.asarray([[[1, 0]]], np.int32)


class Prompted(nn.Module):
    """Prompt encoder and mask decoder without an image encoder: quick to compile."""

    def setup(self):
        small = DecoderConfig(dim=16, heads=2, depth=1, hidden=16, multimasks=1, skips=False)
        self.encoder = PromptEncoder(PromptConfig(16, (32, 32), 16, mask_channels=8))
        self.decoder = MaskDecoder(small)

    def __call__(self, points, labels, masks=None, valid=None):
        prompt = self.encoder(points, labels, masks=masks, masks_valid=valid)
        image = jnp.linspace(-1, 1, 4 * 16).reshape(1, 2, 2, 16)
        image = jnp.broadcast_to(image, (points.shape[0], *image.shape[1:]))
        at = self.encoder.image_positions()
        return self.decoder(image, at, prompt.sparse, prompt.valid, prompt.dense)


@functools.cache
def prompted():
    """Random weights, without compiling an initialisation."""
    masks = jnp.zeros((1, 1, 8, 8))
    shapes = jax.eval_shape(Prompted().init, jax.random.key(0), POINTS, LABELS, masks)
    rng = np.random.default_rng(6)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@jax.jit
def decode(variables, *inputs):
    return Prompted().apply(variables, *inputs)


def test_absent_points_do_not_count():
    points, labels = POINTS / 2, LABELS
    short = decode(prompted(), points, labels)
    wide = np.concatenate([points, np.full((1, 1, 3, 2), np.nan, np.float32)], axis=2)
    absent = np.concatenate([labels, np.full((1, 1, 3), -10, np.int32)], axis=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        decode(prompted(), wide, absent),
        short,
    )
    other = decode(prompted(), points, 1 - labels)
    assert np.abs(other.logits - short.logits).max() > 1e-3


def test_mask_prompts_that_are_not_valid_are_no_masks():
    encoder: Any = PromptEncoder(PromptConfig(16, (32, 32), 16, mask_channels=8))
    variables = {"params": prompted()["params"]["encoder"]}
    masks = jnp.ones((2, 1, 8, 8))
    dense = jax.jit(lambda v, m, ok: encoder.apply(v, masks=m, masks_valid=ok).dense)(
        variables, masks, jnp.asarray([[True], [False]])
    )
    none = np.asarray(variables["params"]["no_mask"])
    np.testing.assert_array_equal(dense[1], np.broadcast_to(none, (1, 2, 2, 16)))
    assert np.abs(dense[0] - none).max() > 1e-2


def test_position_frequencies_are_not_trained():
    positions: Any = FourierPositions(8)
    variables = {"params": {"frequencies": jnp.ones((2, 4))}}
    slope = jax.jit(jax.grad(lambda v: positions.apply(v, jnp.full((3, 2), 0.3)).sum()))(variables)
    assert not np.asarray(slope["params"]["frequencies"]).any()


# --- choice of masks -------------------------------------------------------------------------


def four_masks():
    """Two prompts: the single mask of the first is stable, that of the second is not."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, 2, 4, 8, 8)).astype(np.float32)
    logits[0, 0, 0] = np.where(logits[0, 0, 0] > 0, 5.0, -5.0)
    iou = np.asarray([[[0.5, 0.1, 0.9, 0.3], [0.2, 0.8, 0.4, 0.1]]], np.float32)
    tokens = rng.normal(size=(1, 2, 4, 6)).astype(np.float32)
    present = jnp.asarray([[[1.0], [2.0]]])
    return Masks(jnp.asarray(logits), jnp.asarray(iou), jnp.asarray(tokens), present)


def test_one_mask_falls_back_where_it_is_not_stable():
    masks = four_masks()
    got = jax.jit(one_mask, static_argnums=1)(masks, (0.05, 0.98))
    np.testing.assert_array_equal(got.logits[0, 0, 0], masks.logits[0, 0, 0])
    np.testing.assert_array_equal(got.logits[0, 1, 0], masks.logits[0, 1, 1])  # the best of three
    np.testing.assert_allclose(got.iou[0, :, 0], [0.5, 0.8])
    np.testing.assert_array_equal(got.tokens[:, :, 0], masks.tokens[:, :, 0])  # even so
    plain = one_mask(masks)
    np.testing.assert_array_equal(plain.logits[:, :, 0], masks.logits[:, :, 0])
    assert all_masks(masks).logits.shape == (1, 2, 3, 8, 8)


def test_pick_is_one_choice_per_prompt():
    masks = four_masks()

    @jax.jit
    def choices(masks, ambiguous):
        picked = pick(masks, ambiguous, (0.05, 0.98))
        return picked, best_mask(masks), one_mask(masks, (0.05, 0.98))

    got, best, single = choices(masks, jnp.asarray([[True, False]]))
    for a, b, c in zip(*(jax.tree.leaves(x.replace(object_logits=None))
                         for x in (got, best, single)), strict=False):  # fmt: skip
        np.testing.assert_array_equal(a[:, 0], b[:, 0])
        np.testing.assert_array_equal(a[:, 1], c[:, 1])
    np.testing.assert_allclose(best.iou[0, :, 0], [0.9, 0.8])


# --- maps ------------------------------------------------------------------------------------


def test_windows_come_back():
    x = np.random.default_rng(2).normal(size=(2, 5, 7, 3)).astype(np.float32)
    windows = to_windows(jnp.asarray(x), 3)
    assert windows.shape == (2 * 2 * 3, 3, 3, 3)
    np.testing.assert_array_equal(windows[1], np.asarray(x[0, :3, 3:6]))
    np.testing.assert_array_equal(from_windows(windows, (5, 7)), x)


def test_cubic_resize_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).normal(size=(7, 5, 4)).astype(np.float32)
    for size in ((16, 9), (4, 12), (7, 5)):
        want = torch.nn.functional.interpolate(
            torch.from_numpy(x).permute(2, 0, 1)[None], size=size, mode="bicubic"
        )[0].permute(1, 2, 0)
        np.testing.assert_allclose(resize_cubic(jnp.asarray(x), size), want, atol=1e-5)


def test_sine_positions():
    table = sine_positions((4, 6), 16)
    assert table.shape == (4, 6, 16)
    angle = 2 * np.pi * 3 / (4 + 1e-6)
    np.testing.assert_allclose(table[2, :, 0], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(table[2, 1, 3], np.cos(angle / 10_000**0.25), atol=1e-6)
    np.testing.assert_allclose(table[0, 4, 8], np.sin(2 * np.pi * 5 / 6), atol=1e-5)


def test_equal_blocks_are_stacked():
    periods = {name: len(size.windows()) for name, size in SAM_SIZES.items()}
    assert periods == {"b16": 3, "l16": 6, "h16": 8}
    assert len(model_config("efficientsam-s16").trunk.windows()) == 1
    assert len(dataclasses.replace(SAM_SIZES["b16"], global_blocks=(0,)).windows()) == 12


# --- wrong input -----------------------------------------------------------------------------


def at(x, y):
    return np.asarray([[[[x, y]]]], np.float32)


ONE = np.ones((1, 1, 1), np.int32)


@pytest.mark.parametrize(
    "prompts, words",
    [
        (dict(points=at(70, 3), labels=ONE), "x = 70 is outside"),
        (dict(points=at(3, -2), labels=ONE), "y = -2 is outside"),
        (dict(points=at(3, np.nan), labels=ONE), "outside"),
        (dict(points=at(3, 3), labels=7 * ONE), "label 7"),
        (dict(points=at(3, 3), labels=-ONE), "no point"),
        (dict(points=at(3, 3)), "without labels"),
        (dict(labels=ONE), "without points"),
        (dict(points=at(3, 3), labels=np.ones((1, 1, 2), np.int32)), "one label a point"),
        (dict(points=at(3, 3)[0], labels=ONE), r"\[batch, prompts, points, 2\]"),
        (dict(points=np.zeros((1, 1, 0, 2)), labels=np.zeros((1, 1, 0))), "no point"),
        (dict(boxes=np.asarray([[[5, 5, 70, 9.0]]])), "outside the image"),
        (dict(boxes=np.asarray([[[9, 5, 5, 9.0]]])), "empty"),
        (dict(boxes=np.zeros((1, 4))), r"\[batch, prompts, 4\]"),
        (
            dict(points=at(3, 3), labels=ONE, boxes=np.asarray([[[1, 1, 9, 9.0]] * 2])),
            "number of prompts",
        ),
        (dict(masks=np.full((1, 1, 16, 16), np.nan)), "NaN"),
        (dict(masks=np.zeros((16, 16))), r"\[batch, prompts or 1, H, W\]"),
    ],
)
def test_prompts_that_cannot_be_meant(prompts, words):
    with pytest.raises(ValueError, match=words):
        check_prompts((48, 64), **prompts)


def shapes_only(module, *inputs, **static):
    call = functools.partial(module.init, jax.random.key(0), **static)
    return jax.eval_shape(lambda: call(*inputs))


def efficient_sam():
    trunk = dataclasses.replace(VIT, window=0, global_blocks=(), relative=False)
    decoder = dataclasses.replace(EFFICIENTSAM_DECODER, dim=32, heads=4, hidden=32)
    return Sam(SamConfig(trunk, decoder, masks=False, points=6, add_no_point=True))


@pytest.mark.parametrize(
    "frames, prompts, words",
    [
        (FRAME[:, :32], dict(points=POINTS, labels=LABELS), r"\[batch, 64, 64, 3\]"),
        (FRAME.astype(np.uint8), dict(points=POINTS, labels=LABELS), "normalised floats"),
        (np.repeat(FRAME, 2, 0), dict(points=POINTS, labels=LABELS), "2 images"),
        (FRAME, {}, "nothing is prompted"),
        (FRAME, dict(masks=np.zeros((1, 1, 64, 64))), "16 x 16"),
        (
            FRAME,
            dict(points=np.repeat(POINTS, 2, 1), labels=np.repeat(LABELS, 2, 1),
                 masks=np.zeros((1, 3, 16, 16))),
            "one each",
        ),
        (FRAME, dict(points=POINTS, labels=LABELS, taps=("embeding",)), "embedding"),
    ],
)  # fmt: skip
def test_wrong_calls_of_sam2(frames, prompts, words):
    with pytest.raises(ValueError, match=words):
        shapes_only(SAM2, frames, **prompts)


def test_wrong_calls_of_efficientsam():
    many = np.repeat(POINTS, 4, axis=2), np.repeat(LABELS, 4, axis=2)
    with pytest.raises(ValueError, match="at most 6"):
        shapes_only(efficient_sam(), FRAME, *many)
    with pytest.raises(ValueError, match="no mask prompts"):
        shapes_only(efficient_sam(), FRAME, masks=np.zeros((1, 1, 16, 16), np.float32))


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: dataclasses.replace(HIERA, heads=(1, 2)), "stages"),
        (lambda: dataclasses.replace(HIERA, windows=(3, 2, 2, 2)), "halved"),
        (lambda: dataclasses.replace(HIERA, heads=(3, 2, 4, 8)), "divide"),
        (lambda: dataclasses.replace(VIT, global_blocks=(5,)), "of 2 blocks"),
        (lambda: dataclasses.replace(VIT, image_size=(60, 64)), "multiples of patch"),
        (lambda: dataclasses.replace(DECODER, heads=5), "divide"),
        (lambda: dataclasses.replace(DECODER, upscale_norm="batch"), "upscale_norm"),
        (lambda: PromptConfig(dim=31), "odd"),
    ],
)
def test_configs_that_cannot_be_built(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# --- converters ------------------------------------------------------------------------------


def hiera_file(dim, depth):
    """The two things of a file that its size is read from, at no cost of memory."""
    nothing = np.broadcast_to(np.float32(0), (dim, 3, 7, 7))
    stem = "vision_encoder.backbone."
    blocks = {f"{stem}blocks.{i}.attn.qkv.weight": nothing for i in range(depth)}
    return {stem + "patch_embed.projection.weight": nothing, **blocks}


def hiera_config(size):
    """As transformers writes it: what differs from the class, whose values are those of size t."""
    told = {
        "embed_dim_per_stage": size.dims,
        "num_attention_heads_per_stage": size.heads,
        "blocks_per_stage": size.blocks,
        "window_size_per_stage": size.windows,
        "global_attention_blocks": size.global_blocks,
        "window_positional_embedding_background_size": size.background,
    }
    inner = {k: list(v) for k, v in told.items() if list(v) != PUBLISHED[k]}
    return {"model_type": "sam2", "vision_config": {"backbone_config": inner}}


def test_published_hieras_are_told_by_their_config():
    for name, size in HIERA_SIZES.items():
        file = hiera_file(size.dims[0], sum(size.blocks))
        fields = hiera_overrides(file, hiera_config(size))
        assert HieraConfig(**fields) == size and sam2_size(fields) == name
        with pytest.raises(ConvertError, match="no config.json beside the weights"):
            hiera_overrides(file, None)
        cut = hiera_file(size.dims[0], sum(size.blocks) - 1)
        with pytest.raises(ConvertError, match="the weights are incomplete"):
            hiera_overrides(cut, hiera_config(size))
    with pytest.raises(ConvertError, match="patch_embed"):
        hiera_overrides({}, hiera_config(HIERA_SIZES["t"]))


def test_each_layout_has_one_converter():
    both = {"mask_decoder.mask_tokens.weight"}
    sam = both | {"vision_encoder.layers.0.attn.qkv.weight"}
    image = both | {"vision_encoder.backbone.blocks.0.attn.qkv.weight"}
    official = {"image_encoder.neck.0.weight", "prompt_encoder.bbox_top_left_embeddings.weight"}
    assert detect_converter(sam, {"model_type": "sam"}).name == "sam-transformers"
    assert detect_converter(image, {"model_type": "sam2"}).name == "sam2-transformers"
    assert detect_converter(official).name == "efficientsam"
    with pytest.raises(ConvertError):
        detect_converter(sam, {"model_type": "sam_hq"})


@functools.cache
def efficientsam_file():
    """The tables of the EfficientSAM converter run backwards over nothing: all its keys."""
    from pathlib import Path

    golden = Path(__file__).parents[1] / "parity" / "data" / "efficientsam.npz"
    with np.load(golden) as file:
        names = {k.removeprefix("weight "): k for k in file.files if k.startswith("weight ")}
        return {name: file[key] for name, key in names.items()}


SIZES = dict(image_size=96, num_attention_heads=2, decoder_attention_heads=2)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.update(extra=np.zeros(1)), ["unused", "extra"]),
        (lambda w: w.pop("image_encoder.blocks.1.mlp.fc2.bias"), ["mlp/down/bias", "row 1"]),
        (
            lambda w: (w.pop("mask_decoder.iou_token.weight"), w.pop("image_encoder.neck.1.bias")),
            ["mask_decoder/tokens", "neck/norm1/bias"],
        ),
    ],
)
def test_files_that_do_not_fit_fail_with_every_name(change, words):
    weights = dict(efficientsam_file())
    converter = detect_converter(weights)
    plan = converter.plan(weights, SIZES)
    assert plan.model == "efficientsam-ti16"
    convert(weights, plan.rules)
    change(weights)
    with pytest.raises(ConvertError) as caught:
        convert(weights, plan.rules)
    assert all(word in str(caught.value) for word in words), caught.value


def test_efficientsam_of_no_published_width_needs_a_config():
    weights = dict(efficientsam_file())
    with pytest.raises(ConvertError, match="width 24.*num_attention_heads"):
        detect_converter(weights).plan(weights, None)


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "efficient_sam_vitt.pt"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(WeightsError, match="safetensors"):
        convert_checkpoint(path)


def test_a_saved_model_comes_back_with_its_shapes(tmp_path):
    weights = dict(efficientsam_file())
    plan = detect_converter(weights).plan(weights, SIZES)
    variables = convert(weights, plan.rules)
    config = model_config(plan.model, **plan.overrides)
    path = tmp_path / "tiny.safetensors"
    save(path, variables, {"model": plan.model, "config": config})
    module, loaded = load(path)
    assert module.config == config and isinstance(module.config.trunk, WindowVitConfig)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    with pytest.raises(WeightsError, match="image_encoder/trunk/positions"):
        load(path, trunk=dataclasses.replace(config.trunk, dim=48))


@pytest.mark.slow
def test_half_precision_gives_the_same_masks():
    masks = []
    shapes = shapes_only(SAM2, FRAME, POINTS, LABELS, None, np.zeros((1, 1, 16, 16), np.float32))
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        value = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "scale":
            return 1 + 0.1 * value
        return (
            0.5 * value
            if "tokens" in str(path)
            else value / max(leaf.size / leaf.shape[-1], 4) ** 0.5
        )

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    for dtype in ("float32", "bfloat16"):
        module = Sam2(dataclasses.replace(SAM2.config, dtype=dtype))
        out = jax.jit(module.apply)(variables, FRAME, POINTS, LABELS)
        assert out.masks.dtype == out.iou.dtype == jnp.float32
        masks.append(np.asarray(out.masks).ravel())
    assert np.corrcoef(*masks)[0, 1] > 0.99
