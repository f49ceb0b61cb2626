"""A language model, an audio encoder and a diffusion transformer are values of one block."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.transformer import Block, BlockConfig, BlockStack, layer_norm, rms_norm

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared/goldens/generate/wan_transformer_tiny.npz"


def rope(positions, head, base=10_000.0):
    """cos, sin [N, head / 2] of 1-D positions."""
    angle = np.outer(positions, base ** (-np.arange(0, head, 2) / head)).astype(np.float32)
    return jnp.cos(angle), jnp.sin(angle)


def stacked(layers):
    """Parameters of one block each -> those of a BlockStack."""
    return {"params": {"layer0": jax.tree.map(lambda *a: jnp.stack(a), *layers)}}


def dense(weights, name):
    found = {"kernel": weights[f"{name}.weight"].T}
    if f"{name}.bias" in weights:
        found["bias"] = weights[f"{name}.bias"]
    return found


def fused(weights, names):
    parts = [dense(weights, name) for name in names]
    found = {"kernel": np.concatenate([p["kernel"] for p in parts], 1)}
    biases = [p["bias"] for p in parts if "bias" in p]
    return found | ({"bias": np.concatenate(biases)} if biases else {})


def random_state(torch, module):
    """Every weight off its initial value, as numpy arrays."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return {k: v.numpy() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral"])
def test_a_language_model_is_a_configuration(kind):
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    sizes = dict(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, attn_implementation="eager",
    )  # fmt: skip
    if kind == "mistral":
        sizes |= dict(sliding_window=4)
    names = {"qwen3": ("Qwen3Config", "Qwen3Model"), "llama": ("LlamaConfig", "LlamaModel")}
    names["mistral"] = ("MistralConfig", "MistralModel")
    config, model = (getattr(hf, name) for name in names[kind])
    theirs = model(config(**sizes)).eval()
    w = random_state(torch, theirs)
    tokens = np.random.default_rng(0).integers(0, 50, (2, 9))
    with torch.no_grad():
        want = theirs(torch.tensor(tokens), use_cache=False).last_hidden_state.numpy()

    block = BlockConfig(
        32, 4, kv_heads=2, head_dim=16, biased="", out_bias=False, mlp_bias=False, norm="rms",
        qk_norm="head" if kind == "qwen3" else None, causal=True, mlp_ratio=1.5, gated=True,
        activation="silu", window=4 if kind == "mistral" else None,
    )  # fmt: skip
    layers = []
    for i in range(2):
        at = f"layers.{i}"
        attn = {
            "qkv": fused(w, [f"{at}.self_attn.{n}_proj" for n in "qkv"]),
            "out": dense(w, f"{at}.self_attn.o_proj"),
        }
        if kind == "qwen3":
            attn["query_norm"] = {"scale": w[f"{at}.self_attn.q_norm.weight"]}
            attn["key_norm"] = {"scale": w[f"{at}.self_attn.k_norm.weight"]}
        layers.append(
            {
                "attn": attn,
                "norm1": {"scale": w[f"{at}.input_layernorm.weight"]},
                "norm2": {"scale": w[f"{at}.post_attention_layernorm.weight"]},
                "mlp": {n: dense(w, f"{at}.mlp.{n}_proj") for n in ("gate", "up", "down")},
            }
        )
    stack: Any = BlockStack(block, 2)
    base = theirs.config.rope_parameters["rope_theta"]
    x = jnp.asarray(w["embed_tokens.weight"])[tokens][:, None]
    _, y, _ = jax.jit(stack.apply)(stacked(layers), ((),), x, rope=rope(range(9), 16, base))
    norm: Any = rms_norm(1e-6, jnp.float32)
    y = norm.apply({"params": {"scale": w["norm.weight"]}}, y[:, 0])
    np.testing.assert_allclose(y, want, atol=2e-5)


def test_an_audio_encoder_is_a_configuration():
    """Whisper's: no bias for the keys."""
    torch = pytest.importorskip("torch")
    whisper = pytest.importorskip("transformers.models.whisper.modeling_whisper")
    config = whisper.WhisperConfig(
        d_model=32, encoder_attention_heads=4, encoder_ffn_dim=64, attn_implementation="eager"
    )
    theirs = whisper.WhisperEncoderLayer(config).eval()
    w = random_state(torch, theirs)
    x = np.random.default_rng(0).standard_normal((2, 7, 32), np.float32)
    with torch.no_grad():
        want = theirs(torch.tensor(x), None)
    want = (want[0] if isinstance(want, tuple) else want).numpy()
    params = {
        "attn": {
            "qkv": fused(w, [f"self_attn.{n}_proj" for n in "qkv"]),
            "out": dense(w, "self_attn.out_proj"),
        },
        "mlp": {"up": dense(w, "fc1"), "down": dense(w, "fc2")},
    }
    for ours, name in (("norm1", "self_attn_layer_norm"), ("norm2", "final_layer_norm")):
        params[ours] = {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}
    block = Block(BlockConfig(32, 4, biased="qv", mlp_ratio=2.0, eps=1e-5))
    _, y, _ = jax.jit(block.apply)({"params": params}, (), x[:, None])
    np.testing.assert_allclose(y[:, 0], want, atol=2e-5)


# --- a diffusion transformer -----------------------------------------------------------------


def halves(head, heads):
    """Order of channels that turns pairs (2 i, 2 i + 1) into (i, i + head / 2)."""
    one = np.concatenate([np.arange(0, head, 2), np.arange(1, head, 2)])
    return np.concatenate([h * head + one for h in range(heads)])


def wan_block(w, at, order):
    """Parameters of one published block under our names."""

    def attention(name):
        q, k = (dense(w, f"{at}.{name}.to_{n}") for n in "qk")
        q, k = ({n: a[..., order] for n, a in part.items()} for part in (q, k))
        norms = {
            f"{ours}_norm": {"scale": w[f"{at}.{name}.norm_{n}.weight"][order]}
            for ours, n in (("query", "q"), ("key", "k"))
        }
        v, out = dense(w, f"{at}.{name}.to_v"), dense(w, f"{at}.{name}.to_out.0")
        return q, k, v, norms | {"out": out}

    q, k, v, rest = attention("attn1")
    own = {n: np.concatenate([q[n], k[n], v[n]], -1) for n in q}
    cross_q, cross_k, cross_v, cross = attention("attn2")
    return {
        "attn": rest | {"qkv": own},
        "cross": cross | {"query": cross_q, "key": cross_k, "value": cross_v},
        "norm_cross": {"scale": w[f"{at}.norm2.weight"], "bias": w[f"{at}.norm2.bias"]},
        "mlp": {"up": dense(w, f"{at}.ffn.net.0.proj"), "down": dense(w, f"{at}.ffn.net.2")},
        "modulation": w[f"{at}.scale_shift_table"][0],
    }


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN.name} of ../shared is not here")
@pytest.mark.parametrize("per_token", [False, True])
def test_a_diffusion_transformer_is_a_configuration(per_token):
    """Wan 2.1's network, whole, against diffusers' output on the same weights."""
    golden = np.load(GOLDEN)
    w = {k[2:]: golden[k] for k in golden.files if k.startswith("w:")}
    meta = json.loads(bytes(golden["meta_json"]))["config"]
    heads, head = meta["num_attention_heads"], meta["attention_head_dim"]
    dim = heads * head
    x, t, text = (golden[k] for k in ("x", "t", "text"))
    batch, _, times, height, width = x.shape
    grid = (times, height // 2, width // 2)

    def linear(name, a):
        return a @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    # patches of 1 x 2 x 2
    patches = x.reshape(batch, -1, times, grid[1], 2, grid[2], 2).transpose(0, 2, 3, 5, 1, 4, 6)
    kernel = w["patch_embedding.weight"].reshape(dim, -1)
    tokens = patches.reshape(batch, -1, kernel.shape[1]) @ kernel.T + w["patch_embedding.bias"]
    # the time: sinusoids, an MLP, and six vectors per block
    steps = golden["t_per_token"] if per_token else t[:, None]
    half = meta["freq_dim"] // 2
    angle = steps[..., None] * np.exp(-np.log(10_000.0) * np.arange(half) / half)
    table = np.concatenate([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
    embedder = "condition_embedder.time_embedder.linear_"
    time = linear(f"{embedder}2", jax.nn.silu(linear(f"{embedder}1", table)))
    condition = linear("condition_embedder.time_proj", jax.nn.silu(time))
    condition = condition.reshape(batch, 1, -1, 6, dim)
    embedder = "condition_embedder.text_embedder.linear_"
    hidden = jax.nn.gelu(linear(f"{embedder}1", text), approximate=True)
    context = linear(f"{embedder}2", hidden)[:, None]
    # angles: of a head's pairs, some turn with time, the others with y and x
    wide = 2 * (head // 6)
    sizes = (head - 2 * wide, wide, wide)
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    turns = [rope(places[:, i], size) for i, size in enumerate(sizes)]
    turn = tuple(jnp.concatenate(part, -1) for part in zip(*turns, strict=True))

    block = BlockConfig(
        dim, heads, qk_norm="all", cross=dim, modulated=True, activation="gelu_tanh",
        mlp_ratio=meta["ffn_dim"] / dim, eps=meta.get("eps", 1e-6),
    )  # fmt: skip
    order = halves(head, heads)
    depth = meta["num_layers"]
    params = stacked([wan_block(w, f"blocks.{i}", order) for i in range(depth)])
    stack = BlockStack(block, depth)
    _, y, _ = jax.jit(stack.apply)(
        params, ((),), tokens[:, None], rope=turn, context=context, condition=condition
    )
    shift, scale = np.moveaxis(w["scale_shift_table"] + time[:, :, None], 2, 0)
    y = layer_norm(1e-6, jnp.float32, affine=False).apply({}, y[:, 0]) * (1 + scale) + shift
    y = linear("proj_out", np.asarray(y)).reshape(batch, *grid, 1, 2, 2, -1)
    y = y.transpose(0, 7, 1, 4, 2, 5, 3, 6).reshape(golden["out"].shape)
    want = golden["out_per_token" if per_token else "out"]
    np.testing.assert_allclose(y, want, atol=2e-5)


def test_a_modulated_block_is_its_formula():
    """x + gate * f((1 + scale) * norm(x) + shift), once for attention, once for the MLP."""
    block: Any = Block(BlockConfig(8, 2, modulated=True, mlp_ratio=2.0))
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    x, condition = draw(0, 1, 2, 3, 8), draw(1, 1, 2, 6, 8)
    params = block.init(jax.random.key(2), (), x, condition=condition)["params"]
    assert "norm1" not in params and "norm2" not in params
    _, got, _ = block.apply({"params": params}, (), x, condition=condition)
    six = [(params["modulation"] + condition)[:, :, None, i] for i in range(6)]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def part(name, x):
        return block.bind({"params": params}).__getattr__(name)(x)

    h = norm(x) * (1 + six[1]) + six[0]
    x = x + six[2] * part("attn", h[0])[0][None]
    want = x + six[5] * part("mlp", norm(x) * (1 + six[4]) + six[3])
    np.testing.assert_allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError, match="condition"):
        block.apply({"params": params}, (), x)


def test_a_context_that_is_missing_is_named():
    block = Block(BlockConfig(8, 2, cross=4))
    with pytest.raises(ValueError, match="context"):
        block.init(jax.random.key(0), (), jnp.zeros((1, 1, 3, 8)))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(heads=3), "not divisible"),
        (dict(kv_heads=3), "kv_heads 3"),
        (dict(norm="batch"), "choose from"),
        (dict(qk_norm="some"), "choose from"),
        (dict(window=3), "causal"),
        (dict(biased="vq"), "biased 'vq'"),
    ],
)
def test_what_a_config_refuses(wrong, words):
    with pytest.raises(ValueError, match=words):
        BlockConfig(**{"dim": 8, "heads": 4, **wrong})


def test_a_new_option_changes_two_files():
    """The config and the file that uses it: nobody else in layers/ lists a block's options."""
    options = {field.name for field in dataclasses.fields(BlockConfig)}
    for module in (Block, BlockStack):
        own = {field.name for field in dataclasses.fields(module)}
        assert not own & options, module
    for path in (ROOT / "layers").rglob("*.py"):
        if path.name == "config.py":
            continue
        named = {name for name in options if f"{name}: " in path.read_text()}
        assert len(named & {"gated", "biased", "softcap", "causal", "qk_norm", "modulated"}) < 4
