"""Losses and masks of models that watch and speak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.masks import answer_places, watching
from streamzoo.layers.prefix_verifier import PrefixVerifier, scalars_of
from streamzoo.train.language import (
    IGNORED,
    caption_mask,
    focal_loss,
    live_loss,
    overlapped_chunks,
)

from ..language import dense, golden, needs_goldens, norm


@needs_goldens
def test_hidden_captions_are_livestars():
    z, _ = golden("livestar_scam")
    for i in range(3):
        seen, places = caption_mask(jnp.asarray(z[f"c{i}/labels"], jnp.int32))
        np.testing.assert_array_equal(seen, z[f"c{i}/attention_mask"])
        np.testing.assert_array_equal(places, z[f"c{i}/position_ids"])


def test_what_follows_a_caption_takes_its_place():
    labels = np.full((1, 12), IGNORED)
    labels[0, 6] = 3
    seen, places = caption_mask(jnp.asarray(labels, jnp.int32), before=1, after=0)
    assert np.flatnonzero(~seen[0]).tolist() == [5, 6]
    assert places[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9]


@needs_goldens
def test_the_loss_of_words_and_silence_is_videollm_onlines():
    z, _ = golden("videollm_online")
    labels = jnp.asarray(z["labels"], jnp.int32)
    frames = jnp.asarray(z["input_ids"] == 61)
    for weight in ("1.0", "0.25"):
        got = live_loss(z["logits"][None], labels, frames, float(weight))
        np.testing.assert_allclose(got, z[f"loss_w{weight}"], rtol=1e-5)


@needs_goldens
def test_a_prefix_is_verified_as_in_relays2s():
    z, _ = golden("relays2s_verifier")
    names = {
        "project": "proj.0", "gate": "gate.gate", "shift": "gate.bias", "mix": "token_ff.0",
        "key": "pool.W_k", "value": "pool.W_v", "head": "head",
    }  # fmt: skip
    params = {ours: dense(z, f"p/{theirs}") for ours, theirs in names.items()}
    params |= {"project_norm": norm(z, "p/proj.1"), "norm": norm(z, "p/pool.norm")}
    params |= {"places": z["p/pos.weight"], "query": z["p/pool.query"][0, 0]}
    call = jax.jit(PrefixVerifier(16).apply)
    hidden = z["hidden"].astype(np.float32)
    logits, weights = call({"params": params}, hidden, z["scalars"], z["mask"])
    np.testing.assert_allclose(logits, z["logits"][:, 0], atol=2e-5)
    np.testing.assert_allclose(weights, z["attn"], atol=1e-6)
    assert not z["mask"].all() and np.isfinite(np.asarray(logits)).all()
    none = call({"params": params}, hidden, z["scalars"], np.zeros_like(z["mask"]))
    assert np.isfinite(np.asarray(none[0])).all() and not np.asarray(none[1]).any()


@needs_goldens
def test_the_focal_loss_is_relays2ss():
    z, meta = golden("relays2s_verifier")
    for key, smoothing in (("focal", 0.0), ("focal_smooth", 0.1)):
        found = [
            float(focal_loss(jnp.asarray(z["logits"][:, 0]), jnp.asarray(t), smoothing=smoothing))
            for t in np.ndindex(2, 2, 2, 2)
        ]
        assert min(abs(f - z[key]) for f in found) < 1e-6, meta["note"]


def test_what_a_model_knew_as_it_said_a_token():
    logits = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25]]]))
    got = scalars_of(logits, jnp.asarray([[1]]))[0, 0]
    np.testing.assert_allclose(got, [1.5 * np.log(2), np.log(0.25), np.log(2)], rtol=1e-5)


def turns(ids):
    """Where turns begin, <|im_start|>, and the role behind it."""
    at = np.flatnonzero(ids == 151_644)
    return at, ids[at + 1]


@needs_goldens
def test_answers_see_what_had_come_as_in_speak_while_watching():
    z, _ = golden("speak_while_watching")
    ids = z["ids_multi"][0]
    at, role = turns(ids)
    shown = [a for a, r in zip(at, role, strict=True) if r == 872][1:]  # the first has words alone
    said = at[role == 77_091]
    ends = [*shown[1:], said[0]]
    answer = np.arange(len(ids)) >= said[0]
    which = np.searchsorted(said, np.arange(len(ids)), side="right") - 1
    limit = np.where(answer, np.asarray(ends)[which], 0)
    got = watching(jnp.asarray(answer)[None], jnp.asarray(limit)[None])
    # the last answer sees all, the official mask has it so; every word of it is later than all
    np.testing.assert_array_equal(got[0], z["mask_multi"])

    ids = z["ids_single"][0]
    start = 40  # <|im_start|> of the answer; its first word is at 43
    answer = np.arange(55) >= start
    for key, sizes in (("group3", (3, 3, 3)), ("schedule", (4, 2, 3))):
        frames = 13 + 6 * np.arange(1, 4)
        # a row predicts the token behind it, and sees what had come when that is said
        stops = 42 + np.cumsum(sizes)
        chunk = np.searchsorted(stops, np.arange(55), side="right")
        limit = np.where(chunk < 3, np.append(frames, 0)[chunk], start)
        got = watching(jnp.asarray(answer)[None], jnp.asarray(limit)[None])
        np.testing.assert_array_equal(got[0], z[f"mask_eval_{key}"], key)


@needs_goldens
def test_answers_stand_where_speak_while_watching_puts_them():
    z, _ = golden("speak_while_watching")
    place = jnp.asarray(z["pos_origin"].T[None], jnp.int32)
    answer = jnp.asarray(np.arange(55) >= 40)[None]
    for kind in ("origin", "group", "gap"):
        got = answer_places(place, answer, kind)
        np.testing.assert_array_equal(got[0].T, z[f"pos_{kind}"])
    with pytest.raises(ValueError, match="choose from"):
        answer_places(place, answer, "apart")


def test_what_comes_later_never_changes_what_was_seen():
    answer = np.arange(12) >= 8
    mask = watching(jnp.asarray(answer)[None], jnp.full((1, 12), 4))[0]
    assert not mask[:8, 8:].any() and not mask[8:, 4:8].any() and bool(mask[11, 8:].all())


def test_chunks_overlap_and_every_second_is_learned_once():
    words = [f"w{i}" if i % 3 == 0 else "" for i in range(61)]
    chunks = list(overlapped_chunks(words))
    learned = [p.second for chunk in chunks for p in chunk if p.learned]
    assert learned == list(range(61)) and [len(c) for c in chunks[:2]] == [24, 24]
    assert chunks[1][0].second == 12 and not chunks[1][11].learned and chunks[1][12].learned
    assert chunks[0][1].words == "..." and chunks[0][3].words == "w3"
    assert [len(list(c)) for c in overlapped_chunks(["a"] * 3)] == [3]
    with pytest.raises(ValueError, match="overlap"):
        list(overlapped_chunks(words, 12, 12))
