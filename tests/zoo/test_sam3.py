"""SAM 3: equal to transformers, concepts per stream, encoded once."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.streaming import Result
from streamzoo.streaming.commands.common import CliError
from streamzoo.streaming.commands.watch import _asked
from streamzoo.streaming.views import view_of
from streamzoo.zoo import WeightsError, create_model, model_card
from streamzoo.zoo.asking import ask_for
from streamzoo.zoo.convert import ConvertError, convert_checkpoint, plan_checkpoint
from streamzoo.zoo.files import read_tensors
from streamzoo.zoo.segment.sam3.config import Sam3Config
from streamzoo.zoo.text.tokenizer import Tokenizer

from ..parity import rows_concepts
from ..parity.harness import check, convert_folder, images, lively, measure, save_pretrained
from ..parity.shim import mend_torchvision
from .drawn import drawn

SMALL: dict[str, Any] = dict(
    trunk=dict(dim=8, depth=2, heads=2, mlp_ratio=2.0, patch=4, image_size=(16, 16), window=3,
               global_blocks=(1,), position_grid=(2, 2)),
    text=dict(vocabulary=20, length=6, dim=8, depth=1, heads=2, mlp_ratio=2.0),
    dim=16, heads=2, hidden=16, exemplar_depth=1, encoder_depth=1, decoder_depth=1, roi=2,
    queries=6, length=6, exemplars=2, slots=4, threshold=0.0,
)  # fmt: skip
PROMPTS = np.asarray([[[18, 3, 4, 19]], [[18, 7, 19, -1]]])
BOXES = np.asarray([[[[0.1, 0.2, 0.6, 0.9]]], [[[0.4, 0.1, 0.9, 0.5]]]], np.float32)


@functools.cache
def small(concepts=1):
    """(model, parameters, its compiled call)."""
    model: Any = create_model("sam3-l14", **SMALL, concepts=concepts)
    return model, drawn("sam3-l14", 0.3, **SMALL), jax.jit(model.apply)


def frames(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 16, 16, 3))


@functools.cache
def reference():
    """transformers' tiny detector, and the image processor that reads its answers."""
    pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    mend_torchvision()
    import torch

    torch.manual_seed(0)
    kind = transformers.Sam3ImageProcessor
    return rows_concepts.concepts(), kind.__new__(kind)


@pytest.mark.slow
def test_it_is_transformers(tmp_path):
    pytest.importorskip("torch")
    row = rows_concepts.ROWS[0]
    check(row, measure(row, tmp_path))


@pytest.mark.slow
def test_it_is_transformers_at_the_published_widths(tmp_path):
    """All widths as published, with 8 of 32 blocks of the trunk and 4 of 24 of the text, on
    pictures of half the side."""
    pytest.importorskip("torch")

    def published():
        import transformers

        config = transformers.Sam3Config(
            vision_config={"backbone_config": {
                "model_type": "sam3_vit_model", "num_hidden_layers": 8, "global_attn_indexes": [7],
                "image_size": 504,
            }},
        )  # fmt: skip
        config.text_config.num_hidden_layers = 4
        return lively(transformers.Sam3Model(config), scale=1.2)

    row = dataclasses.replace(rows_concepts.ROWS[0], build=published, tolerance=1e-3)
    check(row, measure(row, tmp_path))


def test_instances_are_those_of_transformers_postprocessing(tmp_path):
    model, processor = reference()
    import torch

    save_pretrained(model, tmp_path)
    module, variables = convert_folder(tmp_path)
    seen = images(*module.config.image_size)
    with torch.no_grad():
        told = rows_concepts.asked(model, seen, exemplars=True)
    sure = told.pred_logits.sigmoid() * told.presence_logits.sigmoid()
    ranked = np.sort(sure.numpy().ravel())
    threshold = float(ranked[9:11].mean())  # ten of the twenty are above it
    wanted = processor.post_process_instance_segmentation(
        told, threshold=threshold, target_sizes=[(50, 70)] * 2
    )
    changed = dataclasses.replace(module.config, threshold=threshold, slots=12)
    module = module.clone(config=changed)
    asked = module.ask(
        np.asarray(rows_concepts.TOKENS)[:, None], rows_concepts.BOXES[:, None],
        np.asarray(rows_concepts.KINDS)[:, None],
    )  # fmt: skip
    _, found = jax.jit(module.apply)(variables, asked, seen[:, None])
    masks = np.asarray(found.masks_at((50, 70)))[:, 0]
    assert sum(len(want["scores"]) for want in wanted) == 10
    for i, want in enumerate(wanted):
        order, count = np.argsort(-want["scores"].numpy()), int(found.valid[i, 0].sum())
        assert count == len(order)
        np.testing.assert_allclose(found.scores[i, 0, :count], want["scores"][order], rtol=1e-4)
        boxes = np.clip(want["boxes"].numpy()[order] / [70, 50, 70, 50], 0, 1)
        np.testing.assert_allclose(found.boxes[i, 0, :count], boxes, atol=1e-4)
        differing = masks[i, :count] != (want["masks"].numpy()[order] == 1)
        assert differing.mean() < 1e-3 and 0.02 < masks[i, :count].mean() < 0.98
        assert not found.boxes[i, 0, count:].any() and not masks[i, count:].any()


def test_every_stream_has_its_prompt_which_is_encoded_once():
    model, params, step = small()
    now = frames(0, 2, 2)
    carry = model.ask(PROMPTS, BOXES)
    after, out = step(params, carry, now)
    assert out.valid.all()
    _, turned = step(params, model.ask(PROMPTS[::-1], BOXES[::-1]), now[::-1])
    np.testing.assert_allclose(turned.scores[::-1], out.scores, atol=1e-6)
    assert np.abs(out.masks[0] - out.masks[1]).max() > 1e-3
    # neither words nor exemplars are read again: their parts could hold anything
    spoilt = {
        part: jax.tree.map(lambda a: a * np.nan, params["params"][part])
        for part in ("words", "exemplars")
    }
    spoilt = {"params": {**params["params"], **spoilt}}
    held, again = step(spoilt, after, now)
    np.testing.assert_array_equal(again.masks, out.masks)
    # another prompt in one of the streams
    other = model.ask(PROMPTS[::-1])
    pick = lambda a, b: np.stack([a[0], b[1]])
    _, mixed = step(params, jax.tree.map(pick, held, other), now)
    np.testing.assert_array_equal(mixed.scores[0], out.scores[0])
    assert np.abs(mixed.scores[1] - out.scores[1]).max() > 1e-4


@pytest.mark.slow
def test_exemplars_are_of_the_first_frame_that_comes():
    model, params, step = small()
    now, carry = frames(1, 2, 2), model.ask(PROMPTS, BOXES)
    valid = np.asarray([[True, True], [False, True]])
    gone = jnp.where(valid[..., None, None, None], now, np.nan)
    after, out = step(params, carry, gone, valid)
    late, alone = step(params, carry, now[:, 1:])
    np.testing.assert_allclose(after.prompt[1], late.prompt[1], atol=1e-6)
    np.testing.assert_allclose(out.masks[1, 1], alone.masks[1, 0], atol=1e-5)
    assert not out.valid[1, 0].any() and not out.areas[1, 0].any()
    assert np.abs(after.prompt[0] - late.prompt[0]).max() > 1e-3  # its first frame is another
    # a box of what is meant is not one of what is not, nor none
    kinds = [np.full((2, 1, 1), kind) for kind in (1, 0, -1)]
    (is_such, such), (is_not, other), (_, none) = (
        step(params, model.ask(PROMPTS, BOXES, kind), now) for kind in kinds
    )
    shown = np.abs(is_such.prompt - is_not.prompt).max(axis=-1)[:, 0]
    assert (shown[:, 6] > 1e-3).all() and not shown[:, :6].any()  # words are what they were
    assert np.abs(such.masks - other.masks).max() > 1e-4
    assert np.abs(such.masks - none.masks).max() > 1e-4
    want = step(params, model.ask(PROMPTS), now)[1].masks
    np.testing.assert_allclose(none.masks, want, atol=1e-5)


@pytest.mark.slow
def test_several_concepts_at_once_are_each_alone():
    model, params, step = small(concepts=3)
    single, _, one = small()
    now = frames(2, 1, 2)
    both = model.ask(PROMPTS[:, 0][None])
    _, out = step(params, both, now)
    alone = [one(params, single.ask(PROMPTS[i][None]), now)[1] for i in range(2)]
    found = np.concatenate([a.scores for a in alone], axis=2)
    order = np.argsort(-found, axis=2)[:, :, :4]
    np.testing.assert_allclose(out.scores, np.take_along_axis(found, order, 2), rtol=1e-4)
    np.testing.assert_array_equal(out.labels, order // 4)
    masks = np.concatenate([a.masks for a in alone], axis=2)
    wanted = np.take_along_axis(masks, order[..., None, None], 2)
    np.testing.assert_allclose(out.masks, wanted, atol=1e-4)
    for i in range(2):
        np.testing.assert_allclose(out.areas[:, :, i], alone[i].areas[:, :, 0], atol=1e-4)
    # the third was not asked for
    assert not out.presence[:, :, 2].any() and not out.areas[:, :, 2].any()


def test_nothing_is_found_without_a_prompt():
    model, params, step = small()
    carry, out = step(params, model.init_carry(2), frames(0, 2, 2))
    assert not out.valid.any() and not out.masks.any() and not out.presence.any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((carry, out)))


def test_frames_of_another_size_are_stretched():
    model, params, step = small()
    now = frames(3, 2, 1)
    large = jnp.repeat(jnp.repeat(now, 2, axis=2), 3, axis=3)
    wanted = jax.image.resize(large, now.shape, "bilinear")
    got, want = (step(params, model.ask(PROMPTS), f)[1] for f in (large, wanted))
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-5)


def test_bad_prompts_and_configs():
    model, params, _ = small()
    with pytest.raises(ValueError, match="1 concepts, 7 tokens and 0 exemplars"):
        model.ask(np.ones((1, 1, 7), np.int32))
    with pytest.raises(ValueError, match="tokens \\[batch, concepts, length\\]"):
        model.ask(np.ones((1, 3), np.int32))
    with pytest.raises(ValueError, match="exemplars are boxes"):
        model.ask(PROMPTS, BOXES[0])
    with pytest.raises(ValueError, match="carry is of another model"):
        model.apply(params, (), frames(0, 1, 1))
    with pytest.raises(ValueError, match="a prompt of 2 concepts, room for 1"):
        Sam3Config(prompt=((1,), (2,)))
    with pytest.raises(ValueError, match="at most the text encoder's 32"):
        Sam3Config(length=33)
    with pytest.raises(ValueError, match="a multiple of 8"):
        Sam3Config(dim=36, heads=4)
    with pytest.raises(ValueError, match="rope_base 10000.0 with heads of 2"):
        create_model("sam3-l14", trunk=dict(dim=32))
    with pytest.raises(CliError, match="finds what it is told to: --prompt"):
        _asked(None, model, model_card("sam3-l14"))


@pytest.fixture
def tokenizer(tmp_path):
    """One of words, with CLIP's marks, published beside weights."""
    tokenizers = pytest.importorskip("tokenizers")
    marks = ["<|startoftext|>", "<|endoftext|>"]
    words = {word: i for i, word in enumerate(["person", "red", "bag", "?", *marks])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "model.safetensors").touch()
    return tmp_path / "model.safetensors"


def test_phrases_become_concepts_by_the_tokenizer_beside_the_weights(tokenizer):
    model, params, _ = small()
    card = model_card("sam3-l14")
    asked, told = ask_for(model, card, ["Person", " red bag "], weights=str(tokenizer))
    assert told.classes == ("Person", "red bag") and asked.config.concepts == 2
    tokens = np.asarray(asked.init_carry(1).tokens)[0]
    assert tokens.tolist() == [[4, 0, 5, -1, -1, -1], [4, 1, 2, 5, -1, -1]]
    # what is found is told by a detector's view, under the phrases
    _, out = jax.jit(asked.apply)(params, asked.init_carry(1), frames(0, 1, 1))
    first = jax.tree.map(lambda a: a[0, 0], out)
    line = view_of(told).fields(Result(0, 0.0, 1.0, first, told.classes, task="detect"))
    assert {one["label"] for one in line["objects"]} <= {"Person", "red bag"}
    assert len(line["objects"]) == 4
    known = Tokenizer.read(tokenizer)
    for bad, why in (([], "at least one"), (["a", " "], "empty"), (["red " * 5], "7 tokens")):
        with pytest.raises(ValueError, match=why):
            ask_for(model, card, bad, known)
    with pytest.raises(WeightsError, match="without weights"):
        ask_for(model, card, ["person"])
    tokenizer.with_name("tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="tokenizer.json: not there; fetch it"):
        ask_for(model, card, ["person"], weights=str(tokenizer))


def test_the_published_file_has_a_tracker_beside_the_detector(tmp_path):
    from safetensors.numpy import save_file

    model, _ = reference()
    save_pretrained(model, tmp_path)
    plan, wanted = convert_checkpoint(tmp_path)
    tensors, _ = read_tensors(tmp_path / "model.safetensors")
    inside = {f"detector_model.{key}": value for key, value in tensors.items()}
    inside["tracker_model.no_memory_embedding"] = np.zeros(3, np.float32)
    inside["tracker_neck.fpn_layers.0.proj1.bias"] = np.zeros(3, np.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    video = tmp_path / "video"
    video.mkdir()
    save_file(inside, video / "model.safetensors")
    write = lambda c: (video / "config.json").write_text(json.dumps(c))
    write({"model_type": "sam3_video", "detector_config": config})
    again, got = convert_checkpoint(video)
    assert again.overrides == plan.overrides
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    # what is not known is refused, and not taken for something else
    for part, field, value, why in (
        ("detr_encoder_config", "hidden_act", "gelu", "hidden_act differs from part to part"),
        ("mask_decoder_config", "num_attention_heads", 2, "num_attention_heads differs"),
        ("detr_decoder_config", "num_queries", 11, "num_queries 11 and the weights have 10"),
        ("vision_config", "scale_factors", [2.0, 1.0], "scale_factors"),
    ):
        write({**config, part: {**config[part], field: value}})
        with pytest.raises(ConvertError, match=why):
            plan_checkpoint(video)
    vit = config["vision_config"]["backbone_config"]
    vit["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    write(config)
    with pytest.raises(ConvertError, match="only axial is known"):
        plan_checkpoint(video)


@functools.cache
def subject():
    _, params, _ = small()
    asked = create_model("sam3-l14", **SMALL, prompt=(tuple(PROMPTS[0, 0].tolist()),))
    return Subject.of(asked, params, frames, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())
