"""Blending, noise by motion and the similarity filter against their authors' functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import Subject, verify_contract
from streamzoo.layers.diffusion import chunk_blend
from streamzoo.layers.diffusion.motion_noise import MotionNoise
from streamzoo.layers.diffusion.similarity import SimilarityFilter, decide

from ..compare import close
from .goldens import golden, needs_goldens


@needs_goldens
def test_blending_is_streaming_t2vs():
    z = golden("streamingt2v_blend")
    x = jnp.asarray(z["latents"]).transpose(0, 2, 3, 4, 1)
    for offsets, want in zip(z["offsets"], z["out"], strict=True):
        chunks = chunk_blend.cut(x, 24, 4)
        noise = 0.5 * chunks + z["image"][None, :, None, None, None]
        x = chunk_blend.blend(chunks - 0.1 * noise, 4, jnp.asarray(offsets))
        close("latents", x.transpose(0, 4, 1, 2, 3), want, 1e-6)


def test_every_frame_comes_from_one_chunk_and_the_seam_moves():
    ids = jnp.arange(3 * 8).reshape(1, 3, 8)
    seams = set()
    for seed in range(12):
        offsets = chunk_blend.draw_offsets(jax.random.key(seed), 3, 3)
        seams.add(tuple(np.asarray(offsets)))
        owner = np.asarray(chunk_blend.blend(ids, 3, offsets))[0] // 8
        assert owner.shape == (18,) and (np.diff(owner) >= 0).all() and set(owner) == {0, 1, 2}
        assert (owner == 1).argmax() == 5 + int(offsets[1])
    assert len(seams) > 4 and all(s[0] == 0 and max(s) <= 2 for s in seams)


@pytest.mark.parametrize("frames, size, overlap", [(17, 8, 3), (4, 8, 3), (16, 8, 8)])
def test_chunks_that_do_not_cover_are_refused(frames, size, overlap):
    with pytest.raises(ValueError, match="do not cover|not below"):
        chunk_blend.cut(jnp.zeros((1, frames)), size, overlap)


@needs_goldens
def test_noise_by_motion_is_streamdiffusions():
    z = golden("streamdiffusionv2_noise_controller")
    video = jnp.asarray(z["video"], jnp.float32).transpose(0, 2, 3, 4, 1)
    module = MotionNoise((8, 8, 3))
    # the official chunks end at 9, 13, ...: it never looks at the first five frames' motion
    carry, _ = module.apply({}, module.init_carry(1)._replace(seen=jnp.full(1, 3)), video[:, 4:5])
    assert int(carry.seen[0]) == 0
    _, noise = module.apply({}, carry, video[:, 5:])
    ends = z["end_idx"] - 6
    close("noise", noise.scale[0, ends], z["noise_scale"], 1e-6)
    # equal but where the official float64 is within rounding of a whole number
    whole = np.abs(1000 * z["noise_scale"] - np.round(1000 * z["noise_scale"])) < 1e-3
    apart = np.asarray(noise.time[0, ends]) - z["current_step"]
    assert (apart[~whole] == 0).all() and abs(apart).max() <= 1 and (~whole).sum() > 15


def test_a_video_that_stands_still_keeps_the_noise():
    module = MotionNoise((2, 2, 1), initial=0.7)
    _, noise = module.apply({}, module.init_carry(1), jnp.ones((1, 40, 2, 2, 1)))
    close("noise", noise.scale, np.full((1, 40), 0.7), 1e-6)
    assert set(np.asarray(noise.time).ravel()) == {600}


@needs_goldens
@pytest.mark.parametrize("name", ["static", "noisy", "walk", "walk_thr95_max3", "thr1"])
def test_the_official_filter_by_name(name):
    z = golden("streamdiffusion_similarity_filter")
    threshold, longest = z["meta"]["variants"][name]
    skipped = jnp.zeros((), jnp.int32)
    for i in range(1, len(z[f"{name}:cos"])):
        passes, skipped = decide(
            skipped,
            z[f"{name}:cos"][i],
            z[f"{name}:uniform"][i - 1],
            threshold,
            longest,
            "official",
        )
        assert int(passes) == z[f"{name}:decision"][i], i
        assert int(skipped) == z[f"{name}:skip_count"][i], i


def runs(passes):
    """Lengths of skips on end."""
    at = np.flatnonzero(np.concatenate([[True], ~passes == 0, [True]]))
    return np.diff(at) - 1


@pytest.mark.parametrize("law, longest", [("reset", 3), ("official", 4)])
def test_skips_on_end_are_bounded(law, longest):
    module = SimilarityFilter(4, longest=3, law=law)
    still = jnp.ones((1, 60, 2, 2, 1))
    _, passes = module.apply({}, module.init_carry(1), still)
    assert runs(np.asarray(passes[0])).max() == longest
    other = jax.random.normal(jax.random.key(0), (1, 60, 2, 2, 1))
    _, passes = module.apply({}, module.init_carry(1), other)
    assert np.asarray(passes).all()  # unlike frames pass


def test_our_count_starts_anew_at_a_frame_that_passes_by_chance():
    skipped = jnp.int32(2)
    assert int(decide(skipped, 0.0, 0.5, 0.98, 3, "reset")[1]) == 0
    assert int(decide(skipped, 0.0, 0.5, 0.98, 3, "official")[1]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("module", [MotionNoise((2, 3, 1), 5), SimilarityFilter(6, longest=2)])
def test_they_are_streams(module):
    def some(seed, batch, steps):
        steady = jax.random.normal(jax.random.key(9), (1, 1, 2, 3, 1))
        key = jax.random.key(seed + 1)
        if isinstance(module, MotionNoise):  # slow motion, below where the law saturates
            return steady + 0.05 * jax.random.normal(key, (batch, steps, 2, 3, 1))
        return jnp.where(jax.random.bernoulli(key, 0.4, (batch, steps, 1, 1, 1)), -steady, steady)

    verify_contract(Subject.of(module, {}, some))
