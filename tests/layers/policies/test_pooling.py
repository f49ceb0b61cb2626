"""Pooled, merged and ranked tokens are those of the authors' codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.context_content import ContextContent
from streamzoo.layers.contract import Subject
from streamzoo.layers.policies.longvu import (
    AnchorDrop,
    asked_frames,
    frames_that_fit,
    mixed,
    trimmed,
)
from streamzoo.layers.policies.merging import merge
from streamzoo.layers.policies.peak_end import PeakEnd
from streamzoo.layers.policies.pooling import (
    SlowFast,
    mark_frames,
    mark_rows,
    pool_clip,
    pool_grid,
    stretched,
)
from streamzoo.layers.policies.rank_drop import best, looked_at, spread
from streamzoo.layers.positions import rotate_halves

from ...language import case, dense, golden, needs_goldens


@needs_goldens
@pytest.mark.parametrize("by", ["average", "max", "bilinear"])
def test_pooled_grids_are_llava_videos(by):
    z, _ = golden("llava_video_pool")
    for stride in (2, 3):
        got = pool_grid(jnp.asarray(z["x"].reshape(3, 7, 7, 6)), stride, by)
        np.testing.assert_allclose(got.reshape(3, -1, 6), z[f"{by}_s{stride}"], atol=3e-6)


@needs_goldens
def test_marks_of_rows_and_frames_are_llava_videos():
    z, _ = golden("llava_video_pool")
    x = jnp.asarray(z["grid_x"])
    rows = mark_rows(x.reshape(3, 4, 4, 6), jnp.asarray(z["newline"]))
    np.testing.assert_array_equal(rows.reshape(-1, 6), z["token_per_grid"])
    np.testing.assert_array_equal(mark_frames(x, jnp.asarray(z["newline"])), z["token_per_frame"])


@needs_goldens
@pytest.mark.parametrize("clip, out", [("x", "out"), ("short_x", "short_out")])
def test_pooled_clips_are_pllavas(clip, out):
    z, _ = golden("pllava_pool")
    up, down = dense(z, "p/linear_1"), dense(z, "p/linear_2")
    x = jax.nn.gelu(z[clip] @ up["kernel"] + up["bias"], approximate=False)
    x = stretched(x @ down["kernel"] + down["bias"], 8)
    got = pool_clip(x.reshape(8, 6, 6, 7), (4, 3, 4))
    np.testing.assert_allclose(got.reshape(1, 48, 7), z[out], atol=1e-6)


@needs_goldens
@pytest.mark.parametrize("grid, out", [(1, "mean"), (2, "grid:2"), (0, "None")])
def test_two_tokens_a_frame_are_llama_vids(grid, out):
    z, _ = golden("llama_vid_tokens")
    names = {"key": "key", "value": "val", "up": "mm.0", "down": "mm.2"}
    params = {ours: dense(z, f"p/{theirs}") for ours, theirs in names.items()}
    module = ContextContent(24, 28, grid)
    got = module.apply({"params": params}, z["text_q"][None], z["vis"][None])
    np.testing.assert_allclose(got[0], z[f"out_{out}"], atol=2e-6)
    with pytest.raises(ValueError, match="no square"):
        ContextContent(24, 28).apply({"params": params}, z["text_q"][None], z["vis"][None, :, :15])


merge_by_four = jax.jit(functools.partial(merge, heads=4), static_argnums=1)


@needs_goldens
def test_merged_tokens_are_livestars():
    z, _ = golden("tome_livestar")
    for i in range(4):
        got, sizes = merge_by_four(z[f"c{i}/x"], z[f"c{i}/out"].shape[1])
        np.testing.assert_allclose(got, z[f"c{i}/out"], atol=2e-6)
        # nothing is lost: the mean over all tokens is what it was
        np.testing.assert_array_equal(sizes.sum(1), [z[f"c{i}/x"].shape[1]] * len(got))
        total = jnp.einsum("bn,bnd->bd", sizes, got)
        np.testing.assert_allclose(total, z[f"c{i}/x"].sum(1), atol=2e-4)


@needs_goldens
def test_merged_clips_are_videochat_flashs():
    z, _ = golden("hico_tome_videochat_flash")
    up, down = dense(z, "p/mlp.0"), dense(z, "p/mlp.2")
    for clips, name in ((2, "local4"), (1, "whole")):
        x = jnp.asarray(z["x"].reshape(clips, -1, 16))
        got, _ = merge_by_four(x, 16 * 8 // clips)
        if name == "local4":
            np.testing.assert_allclose(got, z["merged_local4"], atol=1e-6)
        out = jax.nn.gelu(got @ up["kernel"] + up["bias"], approximate=False)
        out = out @ down["kernel"] + down["bias"]
        np.testing.assert_allclose(out, z[f"out_{name}"], atol=2e-6)


@pytest.mark.slow
@needs_goldens
@pytest.mark.parametrize("ranks", ["uniform", "attention", "uniform0_attention"])
def test_tokens_leave_between_layers_as_in_videochat_flash(ranks):
    z, _ = golden("hico_drop_videochat_flash")
    x, rates = jnp.asarray(z["features"]), 10_000.0 ** (-np.arange(4) / 4)
    count = 48
    for stage, share in enumerate((0.5, 0.25, 0.125)):
        kept = int(48 * share)
        layer = f"p/{stage + 1}."
        if ranks == "uniform" or (ranks == "uniform0_attention" and stage == 0):
            stay = spread(count, kept)[None]
        else:
            scale = z[layer + "input_layernorm.weight"]
            h = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale
            angle = jnp.arange(x.shape[1])[:, None] * rates
            turn = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
            q, k = (dense(z, layer + f"self_attn.{n}_proj") for n in "qk")
            q = rotate_halves((h @ q["kernel"] + q["bias"]).reshape(1, -1, 4, 8), *turn)
            k = rotate_halves((h @ k["kernel"] + k["bias"]).reshape(1, -1, 2, 8), *turn)
            stay = best(looked_at(q[:, -1], k, 6, count), kept)
        place = np.concatenate(
            [np.arange(6), 6 + np.asarray(stay)[0], np.arange(6 + count, x.shape[1])]
        )
        np.testing.assert_array_equal(place, z[f"{ranks}/stage{stage}/kept_of_previous"])
        x, count = x[:, place], kept
        assert z[f"{ranks}/stage{stage}/position_ids"].tolist() == [list(range(x.shape[1]))]


@needs_goldens
@pytest.mark.parametrize("name", ["stage3_mix", "stage3_all", "stage3_none_room"])
def test_detailed_frames_are_longvus(name):
    z, _ = golden("longvu_stage34")
    z = case(z, name)
    frames, few, many, longest, _ = (int(n) for n in z["args"])
    low, high = z["low"].reshape(frames, few, 8), z["high"].reshape(frames, many, 8)
    count = frames_that_fit(longest - 16 - 12, frames, few, many)
    tokens, there = mixed(low, high, asked_frames(low, z["text_after"], count))
    np.testing.assert_array_equal(np.asarray(tokens)[np.asarray(there)], z["out"])


@needs_goldens
@pytest.mark.parametrize("name", ["stage4_default07", "stage4_thr08", "stage4_trim"])
def test_tokens_that_turned_from_their_anchor_are_longvus(name):
    z, _ = golden("longvu_stage34")
    z = case(z, name)
    threshold = 0.7 if z["args"][4] < 0 else float(z["args"][4])
    x = z["low"].reshape(1, 19, 6, 8)
    drop = AnchorDrop(8, threshold)
    _, stay = drop(drop.init_carry(1, 6, 8), jnp.asarray(x))
    stay = np.asarray(trimmed(stay[0], int(z["args"][3]) - 16 - 12))
    np.testing.assert_array_equal(x[0][stay], z["out"])


def test_a_still_scene_is_one_frame_of_every_window():
    x = jnp.ones((1, 17, 4, 8))
    drop = AnchorDrop(8)
    stay = np.asarray(drop(drop.init_carry(1, 4, 8), x)[1])[0]
    assert np.flatnonzero(stay.any(-1)).tolist() == [0, 8, 16] and stay[8].all()


@needs_goldens
def test_frames_of_a_caption_that_stay_are_livestars():
    z, _ = golden("livestar_peak_end")
    for i in range(4):
        group, ppl = (z[f"c{i}/{n}"][None].astype(np.float32) for n in ("group", "ppl"))
        stay = PeakEnd.choose(jnp.asarray(group, jnp.int32), jnp.asarray(ppl))
        np.testing.assert_array_equal(np.flatnonzero(stay) + 1, z[f"c{i}/keep_frames"])
        rows(z, i, group[0].astype(int), stay)
    for i in range(3):
        group, ppl, frame = z[f"loop{i}/ppl_rows"].T
        stay = PeakEnd.choose(jnp.asarray(group, jnp.int32)[None], jnp.asarray(ppl)[None])
        np.testing.assert_array_equal(frame[np.flatnonzero(stay)], z[f"loop{i}/keep"])


def rows(z, i, group, stay):
    """A caption's rows: 2 of a header, 29 of every frame, 7 of words; those of frames leave."""
    from .test_streaming_llm import serials, slots_of

    turn = []
    for caption in np.unique(group):
        frames = np.flatnonzero(group == caption) + 1
        turn += [0] * 2 + np.repeat(frames, 29).tolist()
        turn += [0] * (z[f"c{i}/starts"][caption] - len(turn))
    policy = PeakEnd(len(turn))
    slots = slots_of(policy, *[(0, t, 0, 1) for t in turn])
    frame = jnp.arange(1, len(group) + 1)[None]
    np.testing.assert_array_equal(
        serials(policy.compress(slots, frame, stay)), z[f"c{i}/kept_serials"]
    )
    assert policy.full(jnp.asarray([24, 25])).tolist() == [False, True]


def grids(seed, batch, steps):
    x = np.random.default_rng(seed).standard_normal((batch, steps, 4, 6, 3))
    return x.astype(np.float32)


@functools.cache
def subject(name):
    if name == "slow-fast":
        policy = SlowFast(3)

        def pooled(carry, x, valid):
            carry, tokens, stay = policy(carry, x, valid)
            return carry, (stay, jnp.where(stay[..., None], tokens, 0))

        return Subject(policy.init_carry, pooled, grids)
    drop = AnchorDrop(3, 0.3)

    def step(carry, x, valid):
        flat = x.reshape(*x.shape[:2], 24, 3)
        carry, stay = drop(carry, flat, valid)
        flat = flat if valid is None else jnp.where(valid[..., None, None], flat, 0)
        return carry, (stay, stay[..., None] * flat)

    return Subject(lambda batch: drop.init_carry(batch, 24, 3), step, grids)


LAWS = [
    pytest.param(name, law, marks=[pytest.mark.slow] * (law.__name__ != "check_gaps"))
    for name in ("slow-fast", "anchor")
    for law in contract.LAWS
]


@pytest.mark.parametrize("name, law", LAWS)
def test_carry_law(name, law):
    law(subject(name))


def test_slow_frames_have_four_times_the_tokens():
    policy = SlowFast(4, slow=2, fast=4)
    x = jnp.ones((1, 6, 8, 8, 3))
    _, _, stay = policy(policy.init_carry(1), x)
    assert stay.sum(-1).tolist() == [[16, 4, 4, 4, 16, 4]]


def test_sizes_that_cannot_be():
    x = jnp.zeros((1, 4, 8))
    with pytest.raises(ValueError, match="from 1 to 4"):
        merge(x, 5, heads=4)
    with pytest.raises(ValueError, match="do not divide"):
        merge(x, 2, heads=3)
    with pytest.raises(ValueError, match="choose from"):
        pool_grid(jnp.zeros((4, 4, 2)), 2, "median")
    with pytest.raises(ValueError, match="stride 5"):
        pool_grid(jnp.zeros((4, 4, 2)), 5)
    with pytest.raises(ValueError, match="at least 1"):
        AnchorDrop(0)
