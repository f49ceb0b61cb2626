"""Language models: equal to transformers' and to the goldens of bodies, and streams."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamzoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.memory import bytes_of
from streamzoo.layers.policies import POLICIES, Recent
from streamzoo.zoo.convert import ConvertError, convert, convert_checkpoint
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.gguf import read_gguf
from streamzoo.zoo.packages import installed
from streamzoo.zoo.registry import model_card
from streamzoo.zoo.text import Decoder, DecoderConfig, Speaker, Tokenizer
from streamzoo.zoo.text.decoder.convert import config_of, rules
from streamzoo.zoo.text.tokenizer import Writer

from .language import TINY, bytewise, tiny, tokens

NAME = "smollm2-135m/instruct"
GOLDENS = Path(__file__).parents[3] / "shared/goldens/language"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")
SIZES = dict(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, pad_token_id=None, bos_token_id=1,
    eos_token_id=2,
)  # fmt: skip
KINDS = {
    "Llama": dict(
        rope_parameters=dict(
            rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=16,
        ),
    ),
    "Qwen2": dict(tie_word_embeddings=True),
    "Qwen3": dict(head_dim=12),
    "SmolLM3": dict(tie_word_embeddings=True),
}  # fmt: skip


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        z = dict(file)
    return z, json.loads(str(z["meta"]))


@functools.cache
def published(kind):
    """transformers' tiny model of random weights."""
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**{**SIZES, **KINDS[kind]})
    model = getattr(hf, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def theirs(kind, ids):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return published(kind)(input_ids=torch.tensor(ids).long()).logits.numpy()


IDS = np.random.default_rng(0).integers(0, 50, (2, 23)).astype(np.int32)


def but(first, names):
    """One case stands for all in the fast part: each compiles a model."""
    return [pytest.param(n, marks=[pytest.mark.slow] * (n != first)) for n in names]


@pytest.mark.parametrize("kind", but("Qwen3", KINDS))
def test_logits_are_transformers(kind, tmp_path):
    want = theirs(kind, IDS)
    published(kind).save_pretrained(tmp_path)
    model, variables = streamzoo.load(tmp_path, context=32)
    carry, got = jax.jit(model.apply)(variables, model.init_carry(2), IDS)
    assert want.std() > 0.3 and (model.config.start, model.config.end) == (1, 2)
    np.testing.assert_allclose(got, want, atol=3e-5 * want.std())
    assert carry.seen.tolist() == [23, 23] and carry.used.tolist() == [23, 23]


def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path):
    """Its rows of queries and keys are permuted, and codes of 8 bits are within their step."""
    gguf = pytest.importorskip("gguf")
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    torch.manual_seed(1)
    sizes = {**SIZES, "num_hidden_layers": 1, "intermediate_size": 64}  # 32 numbers to a scale
    config = hf.LlamaConfig(**sizes, rope_theta=700.0)
    source = hf.LlamaForCausalLM(config).eval()
    weights = {k: v.detach().numpy() for k, v in source.state_dict().items()}
    file = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    file.add_block_count(1)
    file.add_head_count(4)
    file.add_head_count_kv(2)
    file.add_rope_freq_base(700.0)
    file.add_layer_norm_rms_eps(1e-6)

    def permuted(x, heads):  # as llama.cpp's converter writes them
        return x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)

    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
        "blk.0.attn_norm": "model.layers.0.input_layernorm",
        "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
        "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
        "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
        "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
        "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
    }  # fmt: skip
    for name, key in names.items():
        file.add_tensor(f"{name}.weight", weights[f"{key}.weight"])
    for part, heads in (("q", 4), ("k", 2)):
        array = weights[f"model.layers.0.self_attn.{part}_proj.weight"]
        file.add_tensor(f"blk.0.attn_{part}.weight", permuted(array, heads))
    down = weights["model.layers.0.mlp.down_proj.weight"]
    kind = gguf.GGMLQuantizationType.Q8_0
    file.add_tensor("blk.0.ffn_down.weight", gguf.quants.quantize(down, kind), raw_dtype=kind)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(file, step)()
    read, told = read_gguf(tmp_path / "tiny.gguf")
    assert told["metadata"]["llama.rope.freq_base"] == 700.0
    code = np.abs(down).max() / 127
    np.testing.assert_allclose(read["blk.0.ffn_down.weight"], down, atol=code)
    model, variables = streamzoo.load(tmp_path / "tiny.gguf", context=32)
    assert not model.config.tied and model.config.theta == 700.0 and model.config.eps == 1e-6
    got = jax.jit(model.apply)(variables, model.init_carry(2), IDS)[1]
    with torch.no_grad():
        want = source(input_ids=torch.tensor(IDS).long()).logits.numpy()
    np.testing.assert_allclose(got, want, atol=0.02 * want.std())
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:60])
    with pytest.raises(WeightsError, match="not a complete GGUF"):
        read_gguf(tmp_path / "cut.gguf")


BODIES = {
    "body_llava_onevision": ("language_model.model.", "language_model.lm_head"),
    "body_smolvlm": ("model.text_model.", "lm_head"),
    "body_qwen2_5_vl": ("model.", "lm_head"),
}


def language_model(z, meta, at, head):
    """(model, variables) of the language model inside a video language model's golden."""
    said = {**meta["config"]["text_config"]}
    said["model_type"] = {"qwen2_5_vl_text": "qwen2"}.get(said["model_type"], said["model_type"])
    said["tie_word_embeddings"] = False
    tensors = {"model." + k[2 + len(at) :]: v for k, v in z.items() if k.startswith("d/" + at)} | {
        "lm_head.weight": z[f"d/{head}.weight"]
    }
    fields = config_of(said, tensors)
    table = rules(fields["depth"], bool(fields["biased"]), fields["normed"], fields["tied"])
    return Decoder(DecoderConfig(**fields, context=64)), convert(tensors, table)


@needs_goldens
@pytest.mark.parametrize("name", but("body_qwen2_5_vl", BODIES))
def test_a_body_is_the_golden_from_its_embedded_tokens(name):
    """Qwen2, Llama, and Qwen2.5 with positions on three axes, by both of its rules."""
    z, meta = golden(name)
    model, variables = language_model(z, meta, *BODIES[name])
    step = jax.jit(lambda c, x, told: model.apply(variables, c, None, features=x, told=told))
    x = z["hidden0"]
    cases = [("logits", "position_ids")]
    if "logits_rule_max" in z:
        cases.append(("logits_rule_max", "position_ids_rule_max"))
        assert model.config.sections == (1, 1, 2)
    for logits, places in cases:
        told = {"place": z[places].T[None].astype(np.int32)} if places in z else {}
        got = step(model.init_carry(1), x, told)[1]
        np.testing.assert_allclose(got, z[logits], atol=2e-5 * z[logits].std())


@pytest.mark.parametrize("interleaved", [False, True])
def test_pairs_of_a_head_turn_with_three_axes(interleaved):
    config = DecoderConfig(**{**TINY, "head_dim": 20}, sections=(4, 3, 3), interleaved=interleaved)
    want = [0, 1, 2] * 3 + [0] if interleaved else [0] * 4 + [1] * 3 + [2] * 3
    assert config.rotary.axis.tolist() == want
    with pytest.raises(ValueError, match="are not 10 pairs"):
        dataclasses.replace(config, sections=(4, 3, 2))


# --- streams ---------------------------------------------------------------------------------

MEMORIES = {
    "full": Recent(0, 48),
    "window": Recent(0, 5),
    "streaming-llm": Recent(2, 4, "cache"),
    "sinks-absolute": Recent(2, 4),
}


@functools.cache
def subject(memory):
    model, variables = tiny(policy=MEMORIES[memory])
    return Subject.of(model, variables, tokens)


# what a law compiles is seconds on a loaded machine: one memory stands for all in the fast part
FAST = {"check_gaps"}
LAWS = [
    pytest.param(
        memory,
        law,
        id=f"{memory}-{law.__name__}",
        marks=[pytest.mark.slow] * (memory != "streaming-llm" or law.__name__ not in FAST),
    )
    for memory in MEMORIES
    for law in contract.LAWS
]


@pytest.mark.parametrize("memory, law", LAWS)
def test_carry_law(memory, law):
    law(subject(memory))


@pytest.mark.parametrize("memory", but("streaming-llm", MEMORIES))
def test_a_text_at_once_and_token_by_token_are_the_same(memory):
    model, variables = tiny(policy=MEMORIES[memory])
    step, ids = jax.jit(model.apply), tokens(3, 2, 13)
    whole = step(variables, model.init_carry(2), ids)[1]
    carry, parts = model.init_carry(2), []
    for i in range(13):
        carry, logits = step(variables, carry, ids[:, i : i + 1])
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)
    assert bytes_of(carry) == bytes_of(model.init_carry(2))


@pytest.mark.slow
def test_a_window_forgets_and_sinks_stay():
    """A model of one layer has the window and no more; what is older than it cannot matter."""
    ids = tokens(4, 1, 12)
    other = ids.copy()
    other[:, 0] = (other[:, 0] + 7) % 300
    for policy, matters in ((Recent(0, 4), False), (Recent(1, 3), True), (Recent(0, 12), True)):
        model, variables = tiny(policy=policy, depth=1)
        step = jax.jit(model.apply)
        a, b = (step(variables, model.init_carry(1), x)[1][:, -1] for x in (ids, other))
        assert (float(jnp.abs(a - b).max()) > 1e-4) == matters, policy


@pytest.mark.slow
def test_positions_in_the_cache_stay_small():
    """After more tokens than the window, a sink is as near as the window is long."""
    near = tiny(policy=Recent(1, 4, "cache"), depth=1)
    far = tiny(policy=Recent(1, 4), depth=1)
    ids = tokens(4, 1, 40)
    last = [jax.jit(m.apply)(v, m.init_carry(1), ids)[1][:, -1] for m, v in (near, far)]
    assert float(jnp.abs(last[0] - last[1]).max()) > 1e-4
    # the same five tokens alone, without a past
    five = np.concatenate([ids[:, :1], ids[:, -4:]], axis=1)
    alone = jax.jit(near[0].apply)(near[1], near[0].init_carry(1), five)[1][:, -1]
    np.testing.assert_allclose(last[0], alone, atol=2e-5)


def test_policies_by_name_and_unknown_ones():
    assert DecoderConfig(policy="streaming-llm", context=20).keeps == Recent(4, 16, "cache")
    assert DecoderConfig(context=20).keeps == Recent(0, 20)
    assert all(make(64).capacity == 64 for make in POLICIES.values())
    with pytest.raises(ValueError, match="did you mean streaming-llm"):
        DecoderConfig(policy="streamingllm")
    with pytest.raises(ValueError, match="choose from"):
        Recent(positions="relative")


def test_what_is_refused():
    model, variables = tiny()
    with pytest.raises(ValueError, match="tokens are integers"):
        model.apply(variables, model.init_carry(1), jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="reads tokens"):
        model.apply(variables, model.init_carry(1), None)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"hidden_act": "gelu"}, "only silu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "'yarn' are not known"),
        ({"num_attention_heads": 8, "head_dim": 8}, "8 heads of 8"),
        ({"vocab_size": 51}, "vocab_size 51 and the weights have 50"),
        ({"model_type": None}, "config"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path, change, says):
    published("Qwen2").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | change
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(ConvertError, match=says):
        convert_checkpoint(tmp_path)


# --- speaking --------------------------------------------------------------------------------


def test_an_answer_is_the_best_token_each_time_and_leaves_no_trace():
    model, variables = tiny(context=64)
    speaker = Speaker(model, variables, bytewise())
    state = speaker.hear(speaker.begin(), "what is it?")
    before = jax.tree.map(np.array, state)
    said = [token for token, _ in speaker.answer(state, limit=9)]
    ids = speaker.tokenizer.tokens("what is it?")
    step = jax.jit(model.apply)
    for k, token in enumerate(said):
        text = np.asarray([ids + said[:k]], np.int32)
        text = np.pad(text, ((0, 0), (0, 20 - text.shape[1])))
        logits = step(variables, model.init_carry(1), text)[1][0, len(ids) + k - 1]
        assert int(jnp.argmax(logits)) == token
    assert 1 < len(said) <= 9
    jax.tree.map(np.testing.assert_array_equal, before, state)
    assert [t for t, _ in speaker.answer(state, limit=9)] == said


@pytest.mark.slow
def test_a_long_text_comes_in_parts_and_one_that_is_too_long_is_refused():
    model, variables = tiny(context=300)
    speaker = Speaker(model, variables, bytewise())
    text = "a b c " * 47
    state = speaker.hear(speaker.begin(), text)
    ids = np.asarray([speaker.tokenizer.tokens(text)], np.int32)
    assert ids.shape[1] == 282 == int(state.memory.seen[0])
    want = jax.jit(model.apply)(variables, model.init_carry(1), ids)[1][:, -1]
    np.testing.assert_allclose(state.logits, want, atol=2e-5)
    with pytest.raises(ValueError, match="300: the first 12 would be forgotten"):
        speaker.hear(speaker.begin(), "a b c " * 52)


def test_letters_of_several_tokens_wait_for_each_other():
    tokenizer = bytewise()
    writer, text = Writer(tokenizer), "na\u00efve \U0001f600 \u4f60\u597d!"
    pieces = [writer(token) for token in tokenizer.tokens(text)]
    assert "".join(pieces) == text and pieces.count("") == 1 + 3 + 2 + 2
    cut = Writer(tokenizer)
    assert [cut(t) for t in tokenizer.tokens("\U0001f600")[:2]] == ["", ""] and cut.end() != ""
    assert tokenizer.text(tokenizer.tokens("a<end>b")) == "ab"


def test_a_chat_template_says_what_it_refuses_and_reaches_nothing_else():
    template = "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('only users') }}"
    template += "{% endif %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    tokenizer = bytewise(template)
    assert tokenizer.chat([{"role": "user", "content": "hi"}]) == "[hi]>"
    with pytest.raises(ValueError, match="only users"):
        tokenizer.chat([{"role": "assistant", "content": "hi"}])
    hello = [{"role": "user", "content": "hi"}]
    with pytest.raises(ValueError, match="cannot be filled"):
        bytewise("{{ messages.__class__.__mro__ }}").chat(hello)
    with pytest.raises(ValueError, match="no chat template"):
        bytewise().chat(hello)


@pytest.mark.parametrize(
    "said, says",
    [
        ([], "no messages"),
        ({"role": "user", "content": "hi"}, "a list of messages"),
        ([{"role": "user", "content": None}], "message 0 has no text"),
        (["hi"], "message 0 has no text"),
        ([{"role": "cat", "content": "hi"}], "message 0 is of 'cat'"),
        ("", "nothing to answer"),
        ("bad \ud800", "half a letter at place 4"),
    ],
)
def test_what_is_nothing_to_answer_is_refused(said, says):
    model, variables = tiny(context=16)
    speaker = Speaker(model, variables, bytewise("{{ messages }}"))
    with pytest.raises(ValueError, match=says):
        speaker(said)
    with pytest.raises(ValueError, match="at least 1 token"):
        speaker("hi", limit=0)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    model, variables = tiny(vocabulary=100)
    with pytest.raises(ValueError, match="of different models"):
        Speaker(model, variables, bytewise())
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not there"):
        Tokenizer.read(tmp_path)


# --- real weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    try:
        file = installed(model_card(NAME).source)
    except WeightsError as error:
        pytest.skip(str(error))
    model, variables = streamzoo.load(NAME)
    assert isinstance(model, Decoder)
    return Speaker(model, variables, Tokenizer.read(file)), file


@pytest.mark.slow
@needs_goldens
def test_real_weights_give_the_golden_logits_and_words(real):
    speaker, _ = real
    z, meta = golden("smollm2_135m_instruct")
    for i, prompt in enumerate(meta["prompts"]):
        ids = z[f"p{i}/ids"]
        assert speaker.tokenizer.tokens(prompt) == ids.tolist()
        model = speaker.model
        start = model.init_carry(1)
        logits = jax.jit(model.apply)(speaker.params, start, ids[None].astype(np.int32))[1][0]
        top = np.take_along_axis(np.asarray(logits), z[f"p{i}/top_ids"], axis=1)
        np.testing.assert_allclose(top, z[f"p{i}/top_logits"], atol=2e-4)  # their spread is 8
        total = jax.nn.logsumexp(logits, axis=1)
        np.testing.assert_allclose(total, z[f"p{i}/logsumexp"], atol=2e-4)
        want = z[f"p{i}/greedy"].tolist()
        state = speaker.hear(speaker.begin(), prompt)
        assert [token for token, _ in speaker.answer(state, limit=len(want))] == want
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert speaker.tokenizer.chat(question) == meta["prompts"][0]
    assert speaker(question) == "The capital of France is Paris."


@pytest.mark.slow
@needs_goldens
def test_the_real_tokenizer_is_the_golden(real):
    """transformers cuts a GGUF file's texts as GPT-2 does; the published tokenizer and llama.cpp
    part every number from the space before it, which one of the four texts shows."""
    _, file = real
    z, meta = golden("smollm2_135m_instruct")
    theirs, ours = Tokenizer.read(file, rule="gpt2"), Tokenizer.read(file)
    for i, text in enumerate(meta["texts"]):
        want = z[f"tok{i}"].tolist()
        assert theirs.tokens(text) == want
        assert (ours.tokens(text) == want) == (" \u00bd" not in text)
        assert ours.text(ours.tokens(text), special=True) == text
