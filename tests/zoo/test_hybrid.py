"""Hybrid temporal stacks: the pattern string, its models, and parity with Qwen3-Next's 3:1."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.gated_attention import GatedAttention
from streamzoo.layers.gated_delta import GatedDelta
from streamzoo.layers.hybrid import LETTERS, pattern
from streamzoo.layers.mamba2 import Mamba2
from streamzoo.layers.mixers import MIXERS, Mix, mix
from streamzoo.zoo import create_model, init_params, list_models, model_config

from ..layers.qwen import qwen_delta


def test_a_string_is_a_tuple_of_mixers():
    assert pattern("DDDA") == (mix("gated_delta"),) * 3 + (mix("window"),)
    assert pattern("S-") == (mix("shift"), Mix("none"))
    assert set(LETTERS.values()) == {*MIXERS, "none"}, "every mixer has its letter"
    by_letters = create_model("vit-ti16", temporal="DDDA").config
    by_hand = create_model("vit-ti16", temporal=pattern("DDDA")).config
    assert by_letters == by_hand and hash(by_letters) == hash(by_hand)
    assert len(model_config("vit-ti16", temporal="MMMAMM").temporal) == 6


def test_a_string_survives_json():
    config = model_config("vit-ti16", **json.loads('{"temporal": "MMMA"}'))
    assert [one.kind for one in config.temporal] == ["mamba2"] * 3 + ["window"]


def test_unknown_letters_are_named():
    with pytest.raises(ValueError, match="'DDXA': letter 'X' at place 2 .* D gated_delta, M mam"):
        create_model("vit-ti16", temporal="DDXA")
    with pytest.raises(ValueError, match="empty temporal pattern"):
        pattern("")
    model = create_model("vit-ti16", temporal="DDDDA")  # 5 does not divide the 12 blocks
    with pytest.raises(ValueError, match="depth 12 is not a multiple .* length 5"):
        model.init_carry(1)


def test_registered_sizes():
    names = [f"hybrid-{size}" for size in ("ti16", "s16", "b16", "mi16", "lite0", "palm")]
    assert set(list_models("hybrid-*")) == set(names)
    assert all(model_config(name).temporal == pattern("DDDA") for name in names)


@pytest.mark.parametrize("letters", ["MAF"])
@pytest.mark.slow
def test_a_mamba_stack_obeys_the_carry_law(letters):
    """Jamba's and Nemotron's idea, with a linear attention as well."""
    model, params = init_params(
        "vit-ti16", temporal=letters, image_size=(32, 16), dim=32, depth=len(letters),
        heads_per_block=2, num_classes=5, heads=("frame",),
    )  # fmt: skip
    frames = lambda seed, batch, steps: jax.random.normal(
        jax.random.key(seed), (batch, steps, 32, 16, 3)
    )
    subject = Subject.of(model, params, frames)
    contract.check_chunking(subject, seeds=3)
    contract.check_gaps(subject, seeds=1)
    contract.check_fixed_point(subject)


def rms(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def stream(layers, x, lengths):
    """Runs functions (carry, x) -> (carry, y) one behind the other over pieces of x."""

    def through(carries, x):
        after = []
        for (_, layer), carry in zip(layers, carries, strict=True):
            carry, x = layer(carry, x)
            after.append(carry)
        return after, x

    step = jax.jit(through)
    carries, outputs, at = [carry for carry, _ in layers], [], 0
    with jax.default_matmul_precision("highest"):
        for n in lengths:
            carries, y = step(carries, x[:, at : at + n])
            outputs.append(y)
            at += n
    return np.concatenate(outputs, 1)


def compare(name, layers, x, clip, live, chunks):
    steps = x.shape[1]
    for form, lengths, want in (
        ("clip", [steps], clip),
        ("steps", [1] * steps, live),
        ("chunks", chunks, live),
    ):
        got = stream(layers, x, lengths)
        error = float(np.abs(got - want).max())
        print(f"{name} {form}: {error:.1e} (std {float(want.std()):.2f})")
        assert error <= 1e-5 * max(1.0, float(np.abs(want).max()))


def torch_model(model, rows, config):
    """(clip, steps): what a transformers model makes of rows [R, T, D], whole and with a cache."""
    import torch
    from transformers import DynamicCache

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        clip = model(inputs_embeds=rows, use_cache=False).last_hidden_state
        cache, live = DynamicCache(config=config), []
        name = "cache_params" if "Mamba" in type(model).__name__ else "past_key_values"
        for t in range(rows.shape[1]):
            past = {name: cache, "use_cache": True}
            live.append(model(inputs_embeds=rows[:, t : t + 1], **past).last_hidden_state)
    weights = {k: v.detach().numpy() for k, v in model.named_parameters()}
    return clip.numpy(), torch.cat(live, 1).numpy(), weights


def qwen_attention(w, heads, head, turning):
    """Weights of ``GatedAttention``. There the pair of channel i < turning is i + turning, and
    2 * turning channels turn; ours is i + head / 2, so channels of queries and keys move."""
    rest = np.arange(2 * turning, head)
    first = head // 2 - turning
    order = np.concatenate(
        [np.arange(turning), rest[:first], turning + np.arange(turning), rest[first:]]
    )
    split = lambda a, n: a.reshape(n, -1, a.shape[-1])
    flat = lambda a: a.reshape(-1, a.shape[-1]).T
    query, gate = np.split(split(w["q_proj.weight"], heads), 2, axis=1)
    keys = split(w["k_proj.weight"], len(w["k_proj.weight"]) // head)
    return {
        "query": {"kernel": flat(query[:, order])},
        "gate": {"kernel": flat(gate)},
        "key": {"kernel": flat(keys[:, order])},
        "value": {"kernel": w["v_proj.weight"].T},
        "out": {"kernel": w["o_proj.weight"].T},
        "query_scale": 1 + w["q_norm.weight"][order],
        "key_scale": 1 + w["k_norm.weight"][order],
    }


def part(weights, prefix):
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


@pytest.mark.slow
def test_equals_qwen3_next_three_to_one():
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    from transformers import Qwen3NextConfig

    heads, kv_heads, head, dk, dv, dim, tokens, steps = 4, 2, 16, 8, 12, 32, 2, 12
    config = Qwen3NextConfig(
        hidden_size=dim, num_hidden_layers=4, vocab_size=8, intermediate_size=24,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=dk,
        linear_value_head_dim=dv, linear_conv_kernel_dim=4, mlp_only_layers=[0, 1, 2, 3],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        layer_types=["linear_attention"] * 3 + ["full_attention"],
    )  # fmt: skip
    assert "".join("D" if "linear" in t else "A" for t in config.layer_types) == "DDDA"
    model = qwen.Qwen3NextModel(config).eval()
    x = np.random.default_rng(0).normal(size=(1, steps, tokens, dim)).astype(np.float32)
    clip, live, weights = torch_model(model, torch.tensor(x[0].swapaxes(0, 1)), config)
    back = lambda y: y.swapaxes(0, 1)[None]
    eps = config.rms_norm_eps

    def layer(index):
        w = part(weights, f"layers.{index}.")
        if index < 3:
            mixer = GatedDelta(dim, 2, dk, dv, eps=eps)
            params = qwen_delta(part(w, "linear_attn."), 2, dk, dv)
        else:
            mixer = GatedAttention(
                dim, heads, kv_heads, head, window=steps, sinks=0, rotary=0.5, eps=eps
            )
            params = qwen_attention(part(w, "self_attn."), heads, head, turning=4)

        def run(carry, x):
            carry, y = mixer.apply(
                {"params": params}, carry, rms(x, 1 + w["input_layernorm.weight"], eps)
            )
            x = x + y
            h = rms(x, 1 + w["post_attention_layernorm.weight"], eps)
            gate, up = (h @ w[f"mlp.{n}_proj.weight"].T for n in ("gate", "up"))
            x = x + (jax.nn.silu(gate) * up) @ w["mlp.down_proj.weight"].T
            return carry, rms(x, 1 + weights["norm.weight"], eps) if index == 3 else x

        return mixer.init_carry(1, tokens), run

    layers = [layer(i) for i in range(4)]
    compare("Qwen3-Next", layers, x, back(clip), back(live), [5, 1, 2, 4])


@pytest.mark.slow
def test_equals_a_mamba2_stack():
    torch = pytest.importorskip("torch")
    mamba = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    from transformers import Mamba2Config

    dim, heads, head, state, tokens, steps = 16, 4, 8, 8, 2, 12
    config = Mamba2Config(
        hidden_size=dim, expand=2, num_heads=heads, head_dim=head, state_size=state, n_groups=2,
        conv_kernel=4, chunk_size=8, num_hidden_layers=2, vocab_size=8,
    )  # fmt: skip
    model = mamba.Mamba2Model(config).eval()
    x = np.random.default_rng(1).normal(size=(1, steps, tokens, dim)).astype(np.float32)
    clip, live, weights = torch_model(model, torch.tensor(x[0].swapaxes(0, 1)), config)
    back = lambda y: y.swapaxes(0, 1)[None]
    eps, inner = config.layer_norm_epsilon, 2 * dim

    def layer(index):
        w = part(weights, f"layers.{index}.")
        mixer = Mamba2(dim, expand=2, state=state, head_dim=head, groups=2, chunk=8, eps=eps)
        cut = [inner, 2 * inner + 4 * state]
        gate, xbc, step = (p.T for p in np.split(w["mixer.in_proj.weight"], cut, axis=0))
        params = {
            "gate": {"kernel": gate}, "xbc": {"kernel": xbc}, "step": {"kernel": step},
            "out": {"kernel": w["mixer.out_proj.weight"].T},
            "conv_kernel": w["mixer.conv1d.weight"][:, 0].T,
            "conv_bias": w["mixer.conv1d.bias"],
            "log_rate": w["mixer.A_log"], "step_bias": w["mixer.dt_bias"],
            "skip": w["mixer.D"], "norm_scale": w["mixer.norm.weight"],
        }  # fmt: skip

        def run(carry, x):
            carry, y = mixer.apply({"params": params}, carry, rms(x, w["norm.weight"], eps))
            x = x + y
            return carry, rms(x, weights["norm_f.weight"], eps) if index == 1 else x

        return mixer.init_carry(1, tokens), run

    compare("Mamba-2", [layer(i) for i in range(2)], x, back(clip), back(live), [5, 1, 2, 4])


def test_gated_attention_names_wrong_sizes():
    with pytest.raises(ValueError, match="kv_heads 3 of GatedAttention does not divide heads 4"):
        GatedAttention(32, heads=4, kv_heads=3).init_carry(1, 2)
    module = GatedAttention(32, heads=2, rotary=1.5)
    init = functools.partial(module.init, jax.random.key(0), module.init_carry(1, 2))
    with pytest.raises(ValueError, match="rotary 1.5 of GatedAttention must lie in 0 .. 1"):
        init(jnp.zeros((1, 1, 2, 32)))
