"""Texts as vectors: transformers' BertModel and sentence-transformers' mean, and real weights."""

import json

import jax
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.zoo import WeightsError
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.packages import installed
from streamzoo.zoo.text import Sentences

from .language import bytewise

SMALL = dict(
    vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=40, type_vocab_size=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(folder of a small BertModel as published, the model)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SMALL)).eval()
    with torch.no_grad():
        for p in model.parameters():  # off their initial values
            p += 0.1 * torch.randn_like(p)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return folder, model


def test_vectors_are_transformers_with_the_mean_over_what_is_there(published):
    torch = pytest.importorskip("torch")
    folder, theirs = published
    plan, variables = convert_checkpoint(folder)
    ours = zoo.create_model(plan.model, **plan.overrides)
    tokens = np.random.default_rng(0).integers(0, 300, (3, 12)).astype(np.int32)
    valid = np.arange(12)[None] < np.array([[12], [7], [1]])
    out = jax.jit(ours.apply)(variables, tokens, valid)
    with torch.no_grad():
        mask = torch.from_numpy(valid.astype(int))
        want = theirs(torch.from_numpy(tokens.astype(int)), attention_mask=mask).last_hidden_state
        mean = (want * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        mean = torch.nn.functional.normalize(mean, dim=1).numpy()
    features = np.asarray(out.features)
    np.testing.assert_allclose(features[valid], want.numpy()[valid], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(np.asarray(out.pooled), mean, rtol=1e-4, atol=1e-6)
    # what is not there does not matter
    other = np.where(valid, tokens, 299)
    again = jax.jit(ours.apply)(variables, other, valid)
    np.testing.assert_array_equal(np.asarray(again.pooled), np.asarray(out.pooled))


def test_texts_of_any_length_come_in_their_order(published):
    folder, _ = published
    plan, variables = convert_checkpoint(folder)
    model = zoo.create_model(plan.model, **plan.overrides)
    encode = Sentences(model, variables, bytewise(), longest=40)
    texts = ["a", "a long text " * 9, "bb", "", "né 日本"] * 5
    whole = encode(texts)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), [1 if t else 0 for t in texts],
                               atol=1e-5)  # fmt: skip
    for i in (0, 1, 4):
        np.testing.assert_allclose(encode(texts[i : i + 1])[0], whole[i], atol=1e-5)
    np.testing.assert_allclose(whole[1], encode([texts[1] + "and what is behind"])[0], atol=1e-5)
    with pytest.raises(ValueError, match="3 to 40"):
        Sentences(model, variables, bytewise(), longest=41)
    with pytest.raises(ValueError, match="different models"):
        Sentences(model.clone(config=_smaller(model.config)), variables, bytewise())


def _smaller(config):
    import dataclasses

    return dataclasses.replace(config, vocabulary=200)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"hidden_act": "relu"}, "only gelu"),
        ({"num_attention_heads": 5}, "32 wide"),
        ({"intermediate_size": 64}, "intermediate_size 64"),
    ],
)
def test_a_config_of_another_model_is_refused(published, tmp_path, change, says):
    folder, _ = published
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ConvertError, match=says):
        convert_checkpoint(tmp_path)


def test_real_weights_know_what_is_alike():
    """The published weights, where their package is installed."""
    try:
        installed(zoo.model_card("minilm-l6/sentence").source)
    except WeightsError as error:
        pytest.skip(str(error))
    encode = Sentences.load()
    texts = ["A car drives away.", "The vehicle left.", "A child reads a book."]
    a, b, c = encode(texts)
    assert a @ b > 0.5 > a @ c
