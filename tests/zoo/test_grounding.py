"""Grounding DINO: equal to transformers, one prompt per stream, encoded once."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.streaming.commands.common import CliError
from streamzoo.streaming.commands.watch import _asked
from streamzoo.zoo import WeightsError, create_model, model_card
from streamzoo.zoo.asking import ask_for
from streamzoo.zoo.detect.grounding.config import GroundingConfig
from streamzoo.zoo.detect.grounding.model import Found
from streamzoo.zoo.detect.grounding.phrases import prompt_tokens, read_phrases
from streamzoo.zoo.detect.grounding.swin import SwinConfig
from streamzoo.zoo.text.tokenizer import Tokenizer

from ..parity import rows_detect
from ..parity.harness import check, measure
from .drawn import drawn

SMALL: dict[str, Any] = dict(
    trunk=dict(dim=8, depths=[1, 1], heads=[2, 2], window=4, read=[0, 1]),
    text=dict(vocabulary=1100, length=16, dim=16, hidden=16, depth=1, heads=2),
    image_size=(32, 48), dim=32, levels=2, encoder_depth=1, encoder_heads=4, encoder_hidden=32,
    encoder_points=2, decoder_depth=1, decoder_heads=4, decoder_hidden=32, decoder_points=2,
    queries=8, length=12, slots=4, threshold=0.0,
)  # fmt: skip
PROMPTS = np.asarray([[101, 7, 8, 1012, 9, 1012, 102], [101, 5, 1012, 102, 0, 0, 0]])


@functools.cache
def small():
    """(model, parameters, its compiled call)."""
    model: Any = create_model("groundingdino-t", **SMALL)
    return model, drawn("groundingdino-t", 0.3, **SMALL), jax.jit(model.apply)


def frames(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 32, 48, 3))


def test_it_is_transformers_of_one_block_each(tmp_path):
    pytest.importorskip("torch")
    row = dataclasses.replace(rows_detect.ROWS[0], build=lambda: rows_detect.grounding(blocks=1))
    check(row, measure(row, tmp_path))


@pytest.mark.slow
def test_it_is_transformers_at_the_published_size(tmp_path):
    pytest.importorskip("torch")
    row = dataclasses.replace(
        rows_detect.ROWS[0],
        build=rows_detect.published,
        compare=rows_detect.compare_published,
        tolerance=1e-3,  # 2.7e-4 of the cells, behind six blocks and a trunk
    )
    check(row, measure(row, tmp_path))


def test_detections_are_those_of_transformers_postprocessing():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from ..parity.shim import mend_torchvision

    mend_torchvision()
    model = create_model("groundingdino-t", **{**SMALL, "slots": 12, "threshold": 0.25})
    rng = np.random.default_rng(0)
    logits = rng.normal(-1.0, 1.0, (2, 12, 7)).astype(np.float32)
    logits = np.where(PROMPTS[:, None] != 0, logits, -np.inf)
    boxes = rng.uniform(0.3, 0.6, (2, 12, 4)).astype(np.float32)
    found = model.choose(Found(logits, boxes), read_phrases(PROMPTS).label)

    kind = transformers.GroundingDinoProcessor
    processor: Any = kind.__new__(kind)
    processor.batch_decode = lambda tokens: tokens
    told = transformers.utils.ModelOutput(
        logits=torch.from_numpy(logits), pred_boxes=torch.from_numpy(boxes)
    )
    listed = processor.post_process_grounded_object_detection(told, torch.from_numpy(PROMPTS))
    for i, want in enumerate(listed):
        order = np.argsort(-want["scores"].numpy())
        count = int(found.valid[i].sum())
        assert 3 < count == len(order)
        np.testing.assert_allclose(found.scores[i, :count], want["scores"][order], rtol=1e-6)
        np.testing.assert_allclose(
            found.boxes[i, :count], np.clip(want["boxes"][order], 0, 1), atol=1e-6
        )
        assert not found.boxes[i, count:].any()
        groups = ({7, 8}, {9}) if i == 0 else ({5},)
        for k, at in enumerate(order):
            words = {int(t) for t in want["text_labels"][at]} - {101, 102, 1012}
            best = int(found.labels[i, k])
            assert not words or words & groups[best]


def test_phrases_of_a_prompt():
    phrases = read_phrases(PROMPTS)
    assert np.asarray(phrases.label).tolist() == [
        [-1, 0, 0, -1, 1, -1, -1], [-1, 0, -1, -1, -1, -1, -1],
    ]  # fmt: skip
    sees = np.asarray(phrases.sees[0])
    assert sees[1:4, 1:4].all() and sees[4:6, 4:6].all()
    assert sees.sum() == 9 + 4 + 2  # and the two marks themselves
    assert np.asarray(phrases.place[0]).tolist() == [0, 0, 1, 2, 0, 1, 0]


@pytest.mark.slow
def test_every_stream_has_its_prompt_which_is_encoded_once():
    model, params, step = small()
    now = frames(0, 2, 2)
    carry = model.ask(PROMPTS)
    after, out = step(params, carry, now)
    assert out.valid.all() and not out.labels[1].any()
    _, turned = step(params, model.ask(PROMPTS[::-1]), now[::-1])
    np.testing.assert_allclose(turned.scores[::-1], out.scores, atol=1e-6)
    assert np.abs(out.scores[0] - out.scores[1]).max() > 1e-3
    # the text encoder is not asked again: it could hold anything
    spoilt = jax.tree.map(lambda a: a * np.nan, params["params"]["words"])
    spoilt = {"params": {**params["params"], "words": spoilt}}
    held, again = step(spoilt, after, now)
    np.testing.assert_array_equal(again.scores, out.scores)
    # another prompt in one of the streams
    other = model.ask(PROMPTS[::-1])
    pick = lambda a, b: np.stack([a[0], b[1]])
    _, mixed = step(params, jax.tree.map(pick, held, other), now)
    np.testing.assert_array_equal(mixed.scores[0], out.scores[0])
    assert np.abs(mixed.scores[1] - out.scores[1]).max() > 1e-3


def test_nothing_is_found_without_a_prompt_and_few_cells_are_enough():
    model, params, step = small()
    carry, out = step(params, model.init_carry(2), frames(0, 2, 2))
    assert not out.valid.any() and not out.boxes.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((carry, out)))


def test_bad_prompts_and_configs():
    model, params, _ = small()
    with pytest.raises(ValueError, match="13 tokens, there is room for 12"):
        model.ask(np.ones((1, 13), np.int32))
    with pytest.raises(ValueError, match="tokens \\[batch, length\\]"):
        model.ask(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="carry is of another model"):
        model.apply(params, (), frames(0, 1, 1))
    with pytest.raises(ValueError, match="the trunk alone gives 3"):
        GroundingConfig(levels=2)
    with pytest.raises(ValueError, match="stages below 4"):
        SwinConfig(read=(4,))
    with pytest.raises(CliError, match="finds what it is told to: --prompt"):
        _asked(None, model, model_card("groundingdino-t"))
    with pytest.raises(ValueError, match="takes no prompt"):
        ask_for(create_model("yolox-nano"), model_card("yolox-nano"), ["person"])


def _tokenizer() -> Tokenizer:
    pytest.importorskip("tokenizers")
    try:
        return small()[0].own_tokenizer("")
    except WeightsError as why:
        pytest.skip(str(why))


def test_phrases_become_the_tokens_that_transformers_makes():
    tokenizer = _tokenizer()
    tokens = prompt_tokens(["Person ", "red bag"], tokenizer, 12)
    text = "person. red bag."
    assert tokens.tolist() == [*tokenizer.inner.encode(text).ids, *[0] * 12][:12]
    for bad, why in (([], "at least one"), (["a", " "], "empty"), (["a. b"], "full stop")):
        with pytest.raises(ValueError, match=why):
            prompt_tokens(bad, tokenizer, 12)
    with pytest.raises(ValueError, match="there is room for 4"):
        prompt_tokens(["a red bag"], tokenizer, 4)
    vocabulary = {"vocabulary": 30_522}
    model = create_model("groundingdino-t", **{**SMALL, "text": {**SMALL["text"], **vocabulary}})
    asked, card = ask_for(model, model_card("groundingdino-t"), ["Person", "red bag"], tokenizer)
    assert card.classes == ("Person", "red bag")
    assert np.asarray(asked.init_carry(2).tokens).tolist() == [tokens.tolist()] * 2


@functools.cache
def subject():
    model, params, _ = small()
    asked = create_model("groundingdino-t", **SMALL, prompt=tuple(PROMPTS[0].tolist()))
    assert type(model) is type(asked)
    return Subject.of(asked, params, frames, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())
