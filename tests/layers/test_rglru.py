"""RG-LRU and Griffin's recurrent block against transformers, TRecViT and a float64 loop.

``data/trecvit_golden.safetensors`` holds numbers only. It was made by running google-deepmind's
trecvit package (on recurrentgemma 1.0.1, fp32, matmul precision "highest"): one LRUViT of depth 1,
width 16, 2 heads, MLP width 32, conv1d_temporal_width 4, state_multiplier 2, use_mlp off,
min_rad 0.5, initialised from key 0, after which every bias, norm scale and convolution weight got
Gaussian noise (0.5 for the convolution, 0.3 else), on Gaussian input [B 2, T 9, N 3, D 16].
Names: ``param/<flax path>``, ``input``; ``mixer/output``, ``mixer/last_h``, ``mixer/last_conv``
(the recurrent block alone, on ``input``, and its cache); ``residual/output`` (pre-norm, recurrent
block, residual); ``layer/output`` (then the attention and MLP block); ``encoder/output`` (then the
final LayerNorm).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.mixers import mix
from streamzoo.layers.rglru import RGLRU, RGLRUMixer, bounded_sqrt
from streamzoo.layers.transformer import BlockConfig, BlockStack

from .compare import close

GOLDEN = pathlib.Path(__file__).parent / "data" / "trecvit_golden.safetensors"
KEY = jax.random.key


def noisy(params, scale=0.3, seed=5):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY(seed), len(leaves))
    new = [p + scale * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(tree, new)


def frames(seed, batch, steps, tokens=3, dim=16):
    return jax.random.normal(KEY(seed), (batch, steps, tokens, dim))


def mixer(**options):
    module = RGLRUMixer(16, heads=2, **options)
    params = jax.jit(module.init)(KEY(1), module.init_carry(1, 3), frames(0, 1, 2))
    return module, noisy(params)


@pytest.mark.parametrize("steps", [1, 2, 17, 130])
def test_linear_scan_equals_a_float64_loop(steps):
    rng = np.random.default_rng(steps)
    a, b, h = (
        rng.uniform(0, 1, (2, steps, 5)),
        rng.normal(size=(2, steps, 5)),
        rng.normal(size=(2, 5)),
    )
    states, last = jax.jit(linear_scan)(*(jnp.asarray(v, jnp.float32) for v in (a, b, h)))
    want = []
    for t in range(steps):
        h = a[:, t] * h + b[:, t]
        want.append(h)
    close("linear_scan", states, np.stack(want, 1), 3e-6)
    close("linear_scan last", last, want[-1], 3e-6)


def test_rglru_equals_a_float64_loop():
    module = RGLRU(8, heads=2)
    x = jax.random.normal(KEY(0), (2, 12, 8))
    h0 = jax.random.normal(KEY(3), (2, 8))
    reset = np.zeros((2, 12), bool)
    reset[0, 0] = reset[1, 5] = True
    params = noisy(module.init(KEY(1), h0, x))
    last, states = module.apply(params, h0, x, jnp.asarray(reset))

    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params["params"])
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    h, want = np.asarray(h0, np.float64).copy(), np.zeros((2, 12, 8))
    for b in range(2):
        for t in range(12):
            v = np.asarray(x[b, t], np.float64)
            gates = {}
            for name in ("input_gate", "decay_gate"):
                full = np.zeros((8, 8))  # the block-diagonal matrix, written out
                full[:4, :4], full[4:, 4:] = p[name]["kernel"]
                gates[name] = sigmoid(v @ full + p[name]["bias"].reshape(8))
            a = sigmoid(-p["decay"]) ** (8 * gates["decay_gate"])  # = exp(-8 r softplus(L))
            if reset[b, t]:
                h[b] = gates["input_gate"] * v
            else:
                h[b] = a * h[b] + np.sqrt(1 - a**2) * gates["input_gate"] * v
            want[b, t] = h[b]
    close("RG-LRU vs float64", states, want, 3e-6)
    close("RG-LRU last vs float64", last, h, 3e-6)


def test_bounded_sqrt_has_a_finite_derivative_at_zero():
    value, slope = jax.value_and_grad(bounded_sqrt)(0.0)
    assert value == 0 and slope == pytest.approx(1000.0)
    assert jax.grad(bounded_sqrt)(4.0) == pytest.approx(0.25)


def test_initial_decay_lies_on_the_ring():
    params = RGLRU(4096, heads=64, min_radius=0.5).init(
        KEY(0), jnp.zeros((1, 4096)), jnp.zeros((1, 1, 4096))
    )
    radius = np.exp(-np.logaddexp(0, np.asarray(params["params"]["decay"])))
    assert 0.499 < radius.min() < 0.52 and 0.98 < radius.max() < 0.9995


def test_heads_must_divide():
    with pytest.raises(ValueError, match="does not divide width 16"):
        RGLRUMixer(16, heads=3).init(KEY(0), RGLRUMixer(16).init_carry(1, 3), frames(0, 1, 2))


def test_equals_transformers_recurrent_gemma_clip_and_steps():
    # The reference sizes its convolution cache by hidden_size, so width must equal it.
    width, tokens = 16, 3
    torch = pytest.importorskip("torch")
    gemma = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    from transformers import RecurrentGemmaConfig

    config = RecurrentGemmaConfig(
        hidden_size=16, lru_width=width, num_attention_heads=2, conv1d_width=4,
        num_hidden_layers=1, vocab_size=8, intermediate_size=32,
    )  # fmt: skip
    reference = gemma.RecurrentGemmaRecurrentBlock(config, 0).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_(std=0.5)
    w = {k: v.detach().numpy() for k, v in reference.named_parameters()}
    dense = lambda n: {"kernel": w[n + ".weight"].T, "bias": w[n + ".bias"]}
    gate = lambda n: {"kernel": w[f"rg_lru.{n}_weight"], "bias": w[f"rg_lru.{n}_bias"]}
    params = {
        "params": {
            **{n: dense(n) for n in ("linear_x", "linear_y", "linear_out")},
            "conv_kernel": w["conv_1d.weight"][:, 0].T,
            "conv_bias": w["conv_1d.bias"],
            "rglru": {
                "decay": w["rg_lru.recurrent_param"],
                "input_gate": gate("input_gate"),
                "decay_gate": gate("recurrent_gate"),
            },
        }
    }
    steps = 11
    x = np.random.default_rng(0).normal(size=(2, steps, tokens, 16)).astype(np.float32)
    rows = torch.tensor(x.transpose(0, 2, 1, 3).reshape(-1, steps, 16))
    with torch.no_grad():
        positions = torch.arange(steps)[None].expand(len(rows), -1)
        clip = reference(rows, positions, None, use_cache=False)[0].numpy()
        reference._setup_cache(len(rows), "cpu", torch.float32)
        live = [
            reference(rows[:, t : t + 1], positions[:, t : t + 1], None, use_cache=True)[0]
            for t in range(steps)
        ]
        last = reference.rg_lru.recurrent_states.numpy()
    back = lambda v: v.reshape(2, tokens, steps, 16).transpose(0, 2, 1, 3)
    module = RGLRUMixer(16, width=width, heads=2)
    apply = jax.jit(module.apply)
    with jax.default_matmul_precision("highest"):
        carry, got = apply(params, module.init_carry(2, tokens), x)
        close("Griffin block clip", got, back(clip), 2e-5)
        close("Griffin block state", carry.h, last.reshape(2, tokens, width), 2e-5)
        carry, outputs = module.init_carry(2, tokens), []
        for t in range(steps):
            carry, y = apply(params, carry, x[:, t : t + 1])
            outputs.append(y)
    close("Griffin block steps", np.concatenate(outputs, 1), back(torch.cat(live, 1).numpy()), 2e-5)


def trecvit_mixer(golden):
    """Our mixer's parameters from the golden's."""
    root = "param/residualblock_00/recurrent_block/"
    w = {k[len(root) :]: v for k, v in golden.items() if k.startswith(root)}
    dense = lambda n: {"kernel": w[n + "/kernel"], "bias": w[n + "/bias"]}
    gate = lambda n: {"kernel": w[f"rg_lru/{n}/w"], "bias": w[f"rg_lru/{n}/b"]}
    return {
        **{n: dense(n) for n in ("linear_x", "linear_y", "linear_out")},
        "conv_kernel": w["conv_1d/w"],
        "conv_bias": w["conv_1d/b"],
        "rglru": {
            "decay": w["rg_lru/a_param"],
            "input_gate": gate("input_gate"),
            "decay_gate": gate("a_gate"),
        },
    }


def test_equals_trecvit_recurrent_block():
    golden = load_file(GOLDEN)
    params = {"params": trecvit_mixer(golden)}
    module = RGLRUMixer(16, width=32, heads=2)
    apply = jax.jit(module.apply)
    x = golden["input"]
    for name, lengths in (("clip", [9]), ("steps", [1] * 9), ("chunks", [4, 1, 3, 1])):
        carry, outputs, start = module.init_carry(2, 3), [], 0
        with jax.default_matmul_precision("highest"):
            for n in lengths:
                carry, y = apply(params, carry, x[:, start : start + n])
                outputs.append(y)
                start += n
        close(f"TRecViT block {name}", np.concatenate(outputs, 1), golden["mixer/output"], 5e-6)
        close(f"TRecViT state {name}", carry.h, golden["mixer/last_h"], 5e-6)
        conv = golden["mixer/last_conv"].swapaxes(1, 2)
        close(f"TRecViT convolution tail {name}", carry.tail, conv, 5e-6)

    # The residual around it: an RMS norm with scale 1 + s comes first.
    scale = 1 + golden["param/residualblock_00/temporal_pre_norm/scale"]
    normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale
    with jax.default_matmul_precision("highest"):
        _, y = apply(params, module.init_carry(2, 3), normed)
    close("TRecViT residual", x + np.asarray(y), golden["residual/output"], 5e-6)


def test_a_block_with_the_mixer_in_front_is_a_trecvit_layer():
    """RG-LRU over time, then attention and MLP within the frame: a configuration of our Block."""
    golden = load_file(GOLDEN)
    root = "param/encoderblock_0/"
    w = {k[len(root) :]: v for k, v in golden.items() if k.startswith(root)}
    heads = "MultiHeadDotProductAttention_0/"
    qkv = [heads + n for n in ("query", "key", "value")]
    pair = lambda n, a, b: {a: w[f"{n}/{a}"], b: w[f"{n}/{b}"]}
    layer = {
        "norm_t": {"scale": 1 + golden["param/residualblock_00/temporal_pre_norm/scale"]},
        "mixer": trecvit_mixer(golden),
        "norm1": pair("LayerNorm_0", "scale", "bias"),
        "norm2": pair("LayerNorm_1", "scale", "bias"),
        "attn": {
            "qkv": {
                "kernel": np.concatenate([w[n + "/kernel"].reshape(16, 16) for n in qkv], 1),
                "bias": np.concatenate([w[n + "/bias"].reshape(16) for n in qkv]),
            },
            "out": {
                "kernel": w[heads + "out/kernel"].reshape(16, 16),
                "bias": w[heads + "out/bias"],
            },
        },
        "mlp": {
            "up": pair("MlpBlock_0/Dense_0", "kernel", "bias"),
            "down": pair("MlpBlock_0/Dense_1", "kernel", "bias"),
        },
    }
    block = BlockConfig(16, 2, mlp_ratio=2.0, activation="gelu_tanh", mix_norm="rms")
    stack = BlockStack(block, 1, (mix("rglru", place="before", width=32, heads=2),))
    params = {"params": {"layer0": jax.tree.map(lambda a: a[None], layer)}}
    apply = jax.jit(stack.apply)
    for lengths in ([9], [1] * 9):
        carry, outputs, at = stack.init_carry(2, 3), [], 0
        for n in lengths:
            carry, y, _ = apply(params, carry, golden["input"][:, at : at + n])
            outputs.append(y)
            at += n
        close("TRecViT layer", np.concatenate(outputs, 1), golden["layer/output"], 1e-5)


def test_first_frame_rule_waits_for_the_first_valid_frame():
    module, params = mixer()
    x = frames(7, 1, 4)
    valid = jnp.asarray([[False, False, True, True]])
    apply = jax.jit(module.apply)
    carry, y = apply(params, module.init_carry(1, 3), x.at[:, :2].set(jnp.nan), valid)
    want_carry, want = apply(params, module.init_carry(1, 3), x[:, 2:])
    close("late start", y[:, 2:], want, 1e-6)
    close("late start state", carry.h, want_carry.h, 1e-6)


def test_bf16_computes_with_an_fp32_state():
    module, params = mixer(dtype=jnp.bfloat16)
    plain, _ = mixer()
    x = frames(4, 2, 6)
    carry, y = jax.jit(module.apply)(params, module.init_carry(2, 3), x)
    _, want = jax.jit(plain.apply)(params, plain.init_carry(2, 3), x)
    assert carry.h.dtype == jnp.float32 and y.dtype == jnp.bfloat16
    close("bf16", y.astype(jnp.float32), want, 0.05)
