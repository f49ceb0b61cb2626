"""Language models that see: equal to transformers' from published layouts, and streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.policies import Contiguous
from streamzoo.layers.policies.contiguous import drop, ranks
from streamzoo.layers.policies.contiguous import places as rows_places
from streamzoo.zoo.convert import ConvertError, convert
from streamzoo.zoo.videolm import VideoLM, VideoLMConfig
from streamzoo.zoo.videolm.convert import UNUSED, plan_of
from streamzoo.zoo.videolm.places import Picture, grid_places, places
from streamzoo.zoo.videolm.qwen_vision import QwenVisionConfig, cells, patches_of

from ..language import case, golden, needs_goldens

NAMES = ("body_smolvlm", "body_llava_onevision", "body_qwen2_5_vl", "body_qwen3_vl")


@functools.cache
def body(name):
    """(model, variables, arrays)."""
    z, meta = golden(name)
    tensors = case(z, "d")
    config, table = plan_of(tensors, meta["config"], context=64)
    return VideoLM(config), convert(tensors, table, ignore=UNUSED), z


@functools.cache
def features(name):
    """(what the encoder sees, where pictures stand, tokens [1, T, D] at those places)."""
    model, variables, z = body(name)
    grid = tuple(int(n) for n in z["grid"][0]) if "grid" in z else None
    pixels = jnp.asarray(z["pixels"], jnp.float32)
    if grid is None:
        pixels = pixels[0].transpose(0, 2, 3, 1)
    see = jax.jit(lambda p: model.apply(variables, p, grid, method=VideoLM.see))
    found = see(pixels)
    rows = found.tokens.reshape(-1, found.tokens.shape[-1])
    if model.config.connector == "onevision":
        rows = jnp.concatenate([rows, variables["params"]["connector"]["newline"][None]])
    seen = np.isin(z["input_ids"], (255, 256))
    at = jnp.asarray(np.cumsum(seen[0]) - 1).clip(0)
    return found, seen, rows[at][None], found.deep[:, at][:, None] if grid else None


@needs_goldens
@pytest.mark.parametrize("name", ("body_qwen2_5_vl", "body_qwen3_vl"))
def test_features_of_patches_are_transformers(name):
    z = body(name)[2]
    found = features(name)[0]
    want, patches = z["visual_last"], np.asarray(found.patches)
    if name == "body_qwen2_5_vl":  # theirs stand window by window
        grid = (3, 6, 10)
        rows, cols = cells(grid)
        window = np.repeat(np.arange(3), 60) * 100 + rows // 4 * 10 + cols // 4
        patches = patches[np.argsort(window, kind="stable")]
    np.testing.assert_allclose(patches, want, atol=2e-5 * want.std())
    want = z["visual_merged"]
    np.testing.assert_allclose(found.tokens, want, atol=2e-5 * max(1, want.std()))
    if name == "body_qwen3_vl":
        for i in (0, 1):
            np.testing.assert_allclose(found.deep[i], z[f"deepstack{i}"], atol=2e-5)


@needs_goldens
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_video_are_transformers(name):
    model, variables, z = body(name)
    _, seen, x, deep = features(name)
    cases = [("logits", "position_ids")]
    if "logits_rule_max" in z:
        cases.append(("logits_rule_max", "position_ids_rule_max"))
    step = jax.jit(
        lambda c, ids, x, seen, deep, told: model.apply(
            variables, c, ids, x, seen, deep=deep, told=told
        )
    )
    ids = z["input_ids"].astype(np.int32)
    for logits, key in cases:
        told = {"place": z[key].T[None].astype(np.int32)} if key in z else {}
        carry, got = step(model.init_carry(1), ids, x, seen, deep, told)
        np.testing.assert_allclose(got, z[logits], atol=3e-5 * z[logits].std())
        # in parts of any size, the same
        half = ids.shape[1] // 2
        carry, parts = model.init_carry(1), []
        for a, b in ((0, half), (half, ids.shape[1])):
            own = {k: v[:, a:b] for k, v in told.items()}
            more = None if deep is None else deep[:, :, a:b]
            carry, out = step(carry, ids[:, a:b], x[:, a:b], seen[:, a:b], more, own)
            parts.append(out)
        np.testing.assert_allclose(np.concatenate(parts, 1), got, atol=2e-5)


@needs_goldens
def test_positions_are_transformers():
    z, _ = golden("body_qwen2_5_vl")
    video = Picture((3, 3, 5), seconds=float(z["second_per_grid"][0]))
    parts = (3, video, 4)
    for rule, key in (("spatial", "position_ids"), ("max", "position_ids_rule_max")):
        np.testing.assert_array_equal(places(parts, after=rule)[0].T, z[key])
    z, _ = golden("body_qwen3_vl")
    frame = Picture((1, 2, 3))
    parts = (5, frame, 4, frame, 4, frame, 4)
    np.testing.assert_array_equal(places(parts, after="max")[0].T, z["position_ids"])


@pytest.mark.parametrize(
    "seconds, whole, cut, after, spatial",
    [
        (2.0, [3, 7, 11, 15], [3, 7, 11, 15], 16, 6),
        (1.0, [3, 5, 7, 9], [3, 5, 7, 9], 10, 6),
        (1.5, [3, 6, 9, 12], [3, 5, 7, 9], 13, 6),
        (0.5, [3, 4, 5, 6], [3, 3, 3, 3], 7, 6),
        (0.25, [3, 3, 4, 4], [3, 3, 3, 3], 6, 6),
    ],
)
def test_three_rules_of_time_are_in_the_wild(seconds, whole, cut, after, spatial):
    video = Picture((4, 2, 3), seconds)
    for step, want in (("float", whole), ("trunc", cut)):
        assert grid_places(3, video, step)[::6, 0].tolist() == want
    assert places([3, video])[1] == after and places([3, video], after="spatial")[1] == spatial
    with pytest.raises(ValueError, match="choose from"):
        grid_places(0, video, "round")
    with pytest.raises(ValueError, match="choose from"):
        places([video], after="never")


def test_frames_become_patches_in_the_published_order():
    frames = np.arange(2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
    rows, grid = patches_of(frames, 2)
    assert grid == (1, 4, 4) and rows.shape == (16, 24)
    first = np.asarray(rows[0]).reshape(3, 2, 2, 2)
    np.testing.assert_array_equal(first[0, :, 0, 0], frames[:, 0, 0, 0])
    second = np.asarray(rows[1]).reshape(3, 2, 2, 2)  # the cell to the right, of the same token
    assert second[0, 0, 0, 0] == frames[0, 0, 2, 0]
    third = np.asarray(rows[2]).reshape(3, 2, 2, 2)
    assert third[0, 0, 0, 0] == frames[0, 2, 0, 0]


@needs_goldens
def test_checkpoints_that_do_not_fit():
    z, meta = golden("body_smolvlm")
    with pytest.raises(ConvertError, match="known: qwen2_5_vl"):
        plan_of(case(z, "d"), {**meta["config"], "model_type": "idefics"})
    decoder = body("body_smolvlm")[0].config.decoder
    with pytest.raises(ValueError, match="choose from"):
        VideoLMConfig(QwenVisionConfig(), decoder, "linear")
    with pytest.raises(ValueError, match="and an encoder"):
        VideoLMConfig(QwenVisionConfig(), decoder, "shuffle")


@needs_goldens
def test_rounds_under_streaming_vlms_cache_are_the_authors():
    """Un-rotated keys, positions from what is kept, the oldest picture dropped from round 3 on."""
    z, _ = golden("streamingvlm_body")
    tensors = {}
    for key, array in case(z, "p").items():
        tensors[key.replace("model.visual", "visual").replace("language_model.", "")] = array
    told = {
        "model_type": "qwen2_5_vl",
        "text_config": dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=300, rms_norm_eps=1e-5, hidden_act="silu",
            rope_parameters=dict(rope_theta=10_000.0, mrope_section=[1, 1, 2]),
        ),
        "vision_config": dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32,
            patch_size=14, window_size=56, spatial_merge_size=2, fullatt_block_indexes=[1],
        ),
    }  # fmt: skip
    config, table = plan_of(tensors, told, policy=Contiguous(128))
    model, variables = VideoLM(config), convert(tensors, table)
    see = jax.jit(lambda p: model.apply(variables, p, (1, 4, 6), method=VideoLM.see).tokens)

    @jax.jit
    def step(carry, ids, x, count, told):
        valid = jnp.arange(16)[None] < count
        return model.apply(variables, carry, ids, x, ids == 256, valid, told=told)

    def read(carry, ids, x):
        ids = np.asarray(ids)
        rank = np.cumsum(ids == 256) - 1
        there = (ids == 256)[:, None]
        offset = np.where(there, np.stack([0 * rank, rank // 3, rank % 3], 1), 0)
        advance = np.where(ids != 256, 1, np.where(rank == 5, 3, 0))
        pad = lambda a: np.pad(a, ((0, 16 - len(a)),) + ((0, 0),) * (a.ndim - 1))[None]
        notes = {"offset": pad(offset).astype(np.int32), "advance": pad(advance).astype(np.int32)}
        rows = np.where(there, np.asarray(x)[np.clip(rank, 0, 5)], 0)
        carry, logits = step(carry, pad(ids.astype(np.int32)), pad(rows), len(ids), notes)
        return carry, logits[0, : len(ids)]

    carry = model.init_carry(1)
    for r in range(7):
        own = case(z, f"r{r}")
        if "pruned" in own:
            rank = ranks(carry.notes)
            first, last = own["pruned"]  # with the marks around the picture
            carry = drop(carry, (rank >= first) & (rank <= last))
        past = int(own["n_past"])
        assert int(carry.used[0]) == past
        picture = see(jnp.asarray(z["pixels"][r], jnp.float32))
        carry, logits = read(carry, own["ids"][past:], picture)
        row = np.asarray(rows_places(carry.notes))[0][np.argsort(np.asarray(ranks(carry.notes))[0])]
        np.testing.assert_array_equal(row[: len(own["ids"])].T, own["mrope"])
        found = [logits]
        for token in own["generated"][:2]:
            carry, logits = read(carry, [token], picture)
            found.append(logits)
        got = np.concatenate(found)
        np.testing.assert_allclose(got, own["logits"], atol=3e-5 * own["logits"].std())
        assert got[-3:].argmax(1).tolist() == own["generated"].tolist()
    order = np.argsort(np.asarray(ranks(carry.notes))[0])[:93]
    keys = np.asarray(carry.keys)[0][:, order].swapaxes(1, 2)
    np.testing.assert_allclose(keys[0], z["final_k0"], atol=2e-5)
    np.testing.assert_allclose(keys[1], z["final_k1"], atol=1e-4)
