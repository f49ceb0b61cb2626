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
from streamzoo.layers.hybrid import LETTERS, pattern
from streamzoo.layers.mamba2 import Mamba2
from streamzoo.layers.mixers import MIXERS, Mix, mix
from streamzoo.zoo import create_model, init_params, list_models, model_card, model_config
from streamzoo.zoo.explain import explain_model
from streamzoo.zoo.weights import shapes_of

from ..layers.qwen import qwen_delta
from . import golden_hybrid


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
    kinds = {
        "hybrid": "DDDA", "nsa": "--N", "knn": "--K", "qwennext": "DDDG", "qwennextmoe": "DDDG",
        "jamba": "MMMMAMMM", "nemotronh": "MMMMMA",
    }  # fmt: skip
    letter = {kind: letter for letter, kind in LETTERS.items()}
    for arch, want in kinds.items():
        names = [f"{arch}-{size}" for size in ("ti16", "s16", "b16", "mi16", "lite0", "palm")]
        assert set(list_models(f"{arch}-*")) == set(names)
        for name in names:
            config = model_config(name)
            found = "".join(letter[mixer.kind] for mixer in config.temporal)
            assert found == (want[1:] if want[0] == "-" and config.depth == 4 else want)
            if arch.startswith("qwen"):
                delta = dict(config.temporal[0].options)
                assert delta["heads"] > delta["key_heads"]


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


def kernel(w):
    return {"kernel": w.T}


def feed(w, arch):
    """The MLP or the experts of a layer; Nemotron-H's MLP is a layer of its own there."""
    if "mlp.experts.gate_up_proj" in w or "feed_forward.experts.gate_up_proj" in w:
        at = "mlp." if arch.startswith("qwen") else "feed_forward."
        name = "gate" if arch.startswith("qwen") else "router"
        gate, up = np.split(w[at + "experts.gate_up_proj"].swapaxes(1, 2), 2, axis=2)
        down = w[at + "experts.down_proj"].swapaxes(1, 2)
        found = {"router": kernel(w[f"{at}{name}.weight"]), "gate": gate, "up": up, "down": down}
        if arch.startswith("qwen"):
            found["shared"] = mlp(w, at + "shared_expert.")
            found["shared_gate"] = kernel(w[at + "shared_expert_gate.weight"])
        return found
    return mlp(w, {"jamba": "feed_forward.", "nemotronh": "mixer."}.get(arch, "mlp."))


def mlp(w, at):
    names = [n for n in ("gate", "up", "down") if f"{at}{n}_proj.weight" in w]
    return {n: kernel(w[f"{at}{n}_proj.weight"]) for n in names}


def mamba(w, dim, state):
    cut = [dim, 2 * dim + 2 * state]
    gate, xbc, step = np.split(w["in_proj.weight"], cut, axis=0)
    return {
        "gate": kernel(gate), "xbc": kernel(xbc), "step": kernel(step),
        "out": kernel(w["out_proj.weight"]), "conv_kernel": w["conv1d.weight"][:, 0].T,
        "conv_bias": w["conv1d.bias"], "log_rate": w["A_log"], "step_bias": w["dt_bias"],
        "skip": w["D"], "norm_scale": w["norm.weight"],
    }  # fmt: skip


def unplaced(w):
    qkv = np.concatenate([w[f"{n}_proj.weight"] for n in "qkv"])
    bias = lambda k: {**kernel(k), "bias": np.zeros(len(k), np.float32)}
    return {"qkv": bias(qkv), "out": bias(w["o_proj.weight"])}


def mixer_of(w, arch, dim):
    if arch.startswith("qwen"):
        if "linear_attn.A_log" in w:
            return qwen_delta(part(w, "linear_attn."), 2, 64, 64, keys=1)
        return qwen_attention(part(w, "self_attn."), 2, 64, turning=8)
    if arch == "jamba" and "mamba.own.A_log" in w:
        return mamba(part(w, "mamba.own."), dim, 64)
    if arch == "jamba":
        return unplaced(part(w, "self_attn."))
    w = part(w, "mixer.")
    return mamba(w, dim, 64) if "A_log" in w else unplaced(w)


def layers_of(weights, arch):
    """Per block of ours: weights of its mixer and its norm, those of its feed and its norm."""
    count = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("layers."))
    every = [part(weights, f"layers.{i}.") for i in range(count)]
    extra = float(arch.startswith("qwen"))  # its norms multiply by 1 + weight
    if arch != "nemotronh":
        after = "post_attention_layernorm" if extra else "pre_ff_layernorm"
        for w in every:
            yield w, extra + w["input_layernorm.weight"], w, extra + w[f"{after}.weight"]
        return
    while every:
        w = every.pop(0)
        own = every.pop(0) if every and "mixer.up_proj.weight" in every[0] else None
        yield w, w["norm.weight"], own, None if own is None else own["norm.weight"]


def published(arch):
    """The registered model with transformers' weights, and transformers' answer. The attention
    within a frame has weights of zero and adds nothing: what is left is a language model's layer.
    """
    name = f"{arch}-mi16"
    small = dict(image_size=(1, golden_hybrid.TOKENS), patch=1, heads=("frame",), num_classes=2)
    model, shapes = create_model(name, **small), shapes_of(name, **small)["params"]
    with np.load(golden_hybrid.GOLDEN) as file:
        weights = golden_hybrid.drawn(json.loads(str(file[f"{arch}/shapes"])))
        want = file[f"{arch}/y"]
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    final = [k for k in ("norm.weight", "final_layernorm.weight", "norm_f.weight") if k in weights]
    params["norm"] = {"scale": weights[final[0]] + float(arch.startswith("qwen"))}
    layers = [*layers_of(weights, arch)]
    assert len(layers) == model.config.depth
    for i, (w, norm, own, own_norm) in enumerate(layers):
        block = params["blocks"][f"layer{i}"]
        block["mixer"], block["norm_t"] = mixer_of(w, arch, golden_hybrid.DIM), {"scale": norm}
        if own is not None:
            block["mlp"], block["norm2"] = feed(own, arch), {"scale": own_norm}
        for key in ("mixer", "norm_t", *(("mlp", "norm2") if own is not None else ())):
            block[key] = jax.tree.map(lambda a: jnp.asarray(a)[None], block[key])
    same = jax.tree.map(lambda a, b: a.shape == b.shape, params, shapes)
    assert all(jax.tree.leaves(same)), "every weight has its place"
    ours = golden_hybrid.drawn(golden_hybrid.OURS)
    params["patch_embed"] = {"kernel": ours["patch"], "bias": jnp.zeros(golden_hybrid.DIM)}
    params["pos_embed"] = ours["positions"]
    return model, params, want


@pytest.mark.parametrize(
    "arch",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwennext", "jamba")),
        "qwennextmoe",
        "nemotronh",
    ],
)
def test_equals_transformers_through_the_registry(arch):
    """``golden_hybrid`` says of what: Qwen3-Next with fewer key heads than value heads and gated
    attention, without and with experts, Jamba's eight layers, Nemotron-H's eleven."""
    model, params, want = published(arch)
    frames = golden_hybrid.pixels()[None]
    step = jax.jit(lambda c, x: model.apply({"params": params}, c, x, taps=("features",)))
    outputs, carry, at = [], model.init_carry(1), 0
    for n in (9, 1, 1, 1):
        carry, out = step(carry, frames[:, at : at + n])
        outputs.append(out.taps["features"][0, :, 0])
        at += n
    got = np.concatenate(outputs)
    np.testing.assert_allclose(got, want, atol=5e-5 * max(1.0, float(np.abs(want).max())))


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


@pytest.mark.parametrize(
    "name",
    ["nsa-mi16", "knn-mi16", *(pytest.param(f"{kind}-{size}", marks=pytest.mark.slow)
     for kind in ("nsa", "knn") for size in ("lite0", "palm", "ti16", "s16", "b16"))],
)  # fmt: skip
def test_sparse_memories_take_their_kernel_on_a_tpu(name):
    """At the defaults of the layers, which a page of 4 frames or of one never did."""
    took = {
        choice.implementation
        for choice in explain_model(model_card(name)).choices
        if choice.op == "block_attention" and choice.platform == "tpu"
    }
    assert took == {"pallas_tpu"}


def test_gated_attention_names_wrong_sizes():
    with pytest.raises(ValueError, match="kv_heads 3 of GatedAttention does not divide heads 4"):
        GatedAttention(32, heads=4, kv_heads=3).init_carry(1, 2)
    module = GatedAttention(32, heads=2, rotary=1.5)
    init = functools.partial(module.init, jax.random.key(0), module.init_carry(1, 2))
    with pytest.raises(ValueError, match="rotary 1.5 of GatedAttention must lie in 0 .. 1"):
        init(jnp.zeros((1, 1, 2, 32)))
