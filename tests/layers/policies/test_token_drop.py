"""Tokens that leave are those of the authors' codes; the policies are streams."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.policies.token_drop import Novelty, TokenDrop, distinct_frames

GOLDENS = Path(__file__).parents[4] / "shared/goldens/language"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


@needs_goldens
@pytest.mark.parametrize(
    "drop, key",
    [
        (TokenDrop(threshold=0.3), "feat_abs_0_7"),  # the authors keep cos <= 0.7
        (TokenDrop(threshold=0.75), "feat_abs_0_25"),
        (TokenDrop(share=0.5), "feat_rel_0_5"),
        (TokenDrop(threshold=0.1, by="pixel"), "pix_abs_0_1"),
        (TokenDrop(threshold=0.02, by="pixel"), "pix_abs_0_02"),
        (TokenDrop(share=0.4, by="pixel"), "pix_rel_0_4"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_dropped_tokens_are_timechat_onlines(drop, key):
    z = golden("dtd_timechat")
    at = np.flatnonzero(z["input_ids"][0] == 9)
    x, kept = z["hidden"][0, at].reshape(1, 6, 12, -1), None
    if drop.by == "pixel":
        mean = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None, None]
        std = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None, None]
        rows = z["pixel_rows"].astype(np.float32).reshape(1, 6, 12, 4, 3, 2, 14, 14) * std + mean
        # a token is of two frames: its last one is held against the first one of those before
        kept, x = (rows[:, :, :, :, :, k].reshape(1, 6, 12, -1) for k in (0, 1))
    stay = drop(drop.init_carry(1, 12, x.shape[-1]), x, kept=kept)[1]
    want = z[f"keep_{key}"]
    np.testing.assert_array_equal(np.asarray(stay)[0].ravel(), want[at])
    assert 12 < int(stay.sum()) < 72 and want.sum() == 8 + int(stay.sum())


@needs_goldens
def test_kept_tokens_are_stcs():
    z = golden("stc_pruner")
    pruner = Novelty(keep=6, mixed=True)
    carry = pruner.init_carry(1, 24)
    for i in range(5):
        carry, stay = pruner.chunk(carry, z[f"feat{i}"].reshape(1, -1, 20, 24))
        np.testing.assert_array_equal(np.flatnonzero(stay), z[f"kept{i}"])
    entries = [z[f"mem_entry{i}"] for i in range(5)]
    np.testing.assert_allclose(carry.mean[0], np.mean(entries, 0), atol=1e-6)


@needs_goldens
@pytest.mark.parametrize("case, window", [("long", 16), ("long_w8", 8), ("short_window", 16)])
def test_kept_frames_are_longvus(case, window):
    z = golden("longvu_stage1")
    stay = distinct_frames(z[f"{case}/x"], window)
    np.testing.assert_array_equal(np.flatnonzero(stay), z[f"{case}/kept"])


def test_a_slow_change_creeps_past_the_previous_frame_alone():
    angle = np.arange(10) * 0.2  # each step is 1 - cos 0.2 = 0.02
    x = np.stack([np.cos(angle), np.sin(angle)], -1)[None, :, None]
    for reference, kept in (("previous", [0]), ("last_kept", [0, 3, 6, 9])):
        drop = TokenDrop(threshold=0.1, reference=reference)
        stay = drop(drop.init_carry(1, 1, 2), jnp.asarray(x, jnp.float32))[1]
        assert np.flatnonzero(stay).tolist() == kept, reference


def test_a_memory_of_all_channels_knows_what_it_saw():
    """Noise that differs in which channels vary least: the authors' memory mixes them up."""
    rng = np.random.default_rng(0)
    scene = rng.standard_normal(16).astype(np.float32) * 3
    pruner = Novelty(4)
    carry = pruner.init_carry(1, 16)

    def shown():
        return scene + 0.1 * rng.standard_normal((1, 1, 8, 16)).astype(np.float32)

    for _ in range(6):
        carry, _ = pruner.chunk(carry, jnp.asarray(shown()))
    np.testing.assert_allclose(carry.mean[0], scene, atol=0.1)
    x = jnp.asarray(shown()).at[0, 0, 5].set(-scene)
    assert bool(pruner.chunk(carry, x)[1][0, 0, 5])


def frames(seed, batch, steps):
    # some frames are like those before them
    x = np.random.default_rng(seed).standard_normal((batch, steps, 6, 8))
    return (np.cumsum(x, axis=1) / 3 + x).astype(np.float32)


SUBJECTS = {
    "threshold": (TokenDrop(threshold=0.2), (6, 8)),
    "share": (TokenDrop(share=0.5, reference="last_kept"), (6, 8)),
    "novelty": (Novelty(keep=2), (8,)),
}
FAST = {"check_gaps"}
LAWS = [
    pytest.param(
        name, law, marks=[pytest.mark.slow] * (law.__name__ not in FAST or name == "share")
    )
    for name in SUBJECTS
    for law in contract.LAWS
]


@pytest.mark.parametrize("name, law", LAWS)
def test_carry_law(name, law):
    policy, shape = SUBJECTS[name]

    def step(carry, x, valid):  # a choice has no gradient, what it chooses does
        carry, stay = policy(carry, x, valid)
        x = jnp.where((True if valid is None else valid[..., None, None]), x, 0)
        return carry, (stay, stay[..., None] * x)

    law(Subject(lambda batch: policy.init_carry(batch, *shape), step, frames))


def test_words_that_are_not_known():
    with pytest.raises(ValueError, match="one of them"):
        TokenDrop()
    with pytest.raises(ValueError, match="choose from"):
        TokenDrop(share=0.5, by="colour")
    with pytest.raises(ValueError, match="at least 1"):
        distinct_frames(jnp.zeros((3, 2)), 0)
