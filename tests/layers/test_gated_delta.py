"""The gated delta rule and its mixer against transformers' Qwen3-Next and the carry law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.gated_delta import GatedDelta, l2norm, rate_init, step_init
from streamzoo.layers.kernels.gated_delta import gated_delta, gated_delta_recurrent

from .compare import close
from .qwen import qwen_delta

KEY = jax.random.key
QWEN = "transformers.models.qwen3_next.modeling_qwen3_next"


def inputs(seed, steps, batch=2, heads=3, dk=16, dv=24, decay=1.0, key_heads=None):
    rng = np.random.default_rng(seed)
    draw = lambda *s: rng.normal(size=s).astype(np.float32)
    q, k = (np.asarray(l2norm(draw(batch, steps, key_heads or heads, dk))) for _ in range(2))
    g = -decay * rng.gamma(1.0, 0.3, (batch, steps, heads)).astype(np.float32)
    beta = rng.uniform(0, 1, (batch, steps, heads)).astype(np.float32)
    return q, k, 2 * draw(batch, steps, heads, dv), g, beta, draw(batch, heads, dk, dv)


@pytest.mark.parametrize("steps,key_heads", [(1, 3), (7, 3), (64, 3), (130, 3), (70, 1)])
def test_op_equals_transformers(steps, key_heads):
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip(QWEN)
    args = inputs(steps, steps, key_heads=key_heads)
    *x, state = (torch.tensor(a) for a in args)
    chunked, definition = jax.jit(gated_delta), jax.jit(gated_delta_recurrent)
    for name in ("torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"):
        want, last = getattr(qwen, name)(*x, initial_state=state, output_final_state=True)
        o, s = chunked(*args)
        close(f"chunked T={steps} vs {name}", o, want.numpy(), 5e-6)
        close(f"chunked state T={steps} vs {name}", s, last.numpy(), 5e-6)
        o, s = definition(*args)
        close(f"recurrent T={steps} vs {name}", o, want.numpy(), 5e-6)
        close(f"recurrent state T={steps} vs {name}", s, last.numpy(), 5e-6)


def test_every_length_equals_the_definition():
    whole = inputs(0, 130, batch=1, heads=2, dk=8, dv=8)
    q, k, v, g, beta, start = whole
    definition = jax.jit(gated_delta_recurrent)
    o, _ = definition(*whole)
    chunked = jax.jit(gated_delta, static_argnames="chunk")
    for steps in (1, 2, 7, 15, 16, 17, 33, 64, 127, 130):
        got, state = chunked(*[a[:, :steps] for a in whole[:5]], start, chunk=16)
        live = (np.arange(130) < steps)[None, :, None]  # g = beta = 0 is no frame at all
        _, want = definition(q, k, v, g * live, beta * live, start)
        close(f"T={steps}", got, o[:, :steps], 5e-6)
        close(f"T={steps} state", state, want, 5e-6)


@pytest.mark.parametrize("decay", [0.0, 1.0, 30.0, 1e4])
def test_extreme_decays_stay_finite_and_equal(decay):
    args = inputs(1, 130, decay=decay)
    args = (*args[:4], 2 * args[4], args[5])  # beta up to 2: negative eigenvalues
    o, s = jax.jit(gated_delta)(*args)
    want, last = jax.jit(gated_delta_recurrent)(*args)
    close(f"decay {decay}", o, want, 1e-5)
    close(f"decay {decay} state", s, last, 1e-5)


def test_repeated_keys_with_full_writes_do_not_overflow():
    q, k, v, g, beta, s = inputs(2, 128)
    k = np.broadcast_to(k[:, :1], k.shape)  # every frame corrects the same slot
    args = (q, k, v, 0 * g, np.ones_like(beta), s)
    got, want = jax.jit(gated_delta)(*args)[0], jax.jit(gated_delta_recurrent)(*args)[0]
    close("same key", got, want, 5e-6)


def test_gradients_of_the_chunked_form_equal_those_of_the_definition():
    args = inputs(3, 70, batch=1)
    weight = np.random.default_rng(9).normal(size=args[2].shape).astype(np.float32)

    def loss(op):
        def f(*a):
            o, s = op(*a)
            return (o * weight).sum() + (s * s).sum()

        return jax.jit(jax.grad(f, argnums=range(6)))(*args)

    for name, got, want in zip(
        ("q", "k", "v", "g", "beta", "state"),
        loss(gated_delta),
        loss(gated_delta_recurrent),
        strict=False,
    ):
        scale = max(1.0, float(np.abs(want).max()))
        close(f"gradient of {name}", np.asarray(got) / scale, np.asarray(want) / scale, 1e-5)


def test_wrong_arguments_name_the_remedy():
    args = inputs(0, 4)
    with pytest.raises(ValueError, match="chunk 0"):
        gated_delta(*args, chunk=0)
    with pytest.raises(ValueError, match="3 value heads"):
        gated_delta(args[0][:, :, :2], args[1][:, :, :2], *args[2:])


def frames(seed, batch, steps, tokens=3, dim=16):
    return jax.random.normal(KEY(seed), (batch, steps, tokens, dim))


def mixer(**options):
    module = GatedDelta(16, heads=2, head_dim_k=8, head_dim_v=12, **options)
    params = jax.jit(module.init)(KEY(1), module.init_carry(1, 3), frames(0, 1, 2))
    return module, params


@pytest.mark.parametrize("steps", [1, 70])
def test_mixer_equals_qwen3_next(steps):
    torch = pytest.importorskip("torch")
    qwen = pytest.importorskip(QWEN)
    from transformers import DynamicCache, Qwen3NextConfig

    heads, dk, dv, dim, tokens = 2, 8, 12, 16, 3
    config = Qwen3NextConfig(
        hidden_size=dim, num_hidden_layers=2, linear_num_key_heads=heads,
        linear_num_value_heads=heads, linear_key_head_dim=dk, linear_value_head_dim=dv,
        linear_conv_kernel_dim=4, layer_types=["linear_attention", "full_attention"],
        vocab_size=8, num_attention_heads=2, num_key_value_heads=1, num_experts=2,
    )  # fmt: skip
    reference = qwen.Qwen3NextGatedDeltaNet(config, 0).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for _name, p in reference.named_parameters():
            p.normal_(std=0.4)
    w = {k: v.detach().numpy() for k, v in reference.named_parameters()}
    params = {"params": qwen_delta(w, heads, dk, dv)}
    x = np.random.default_rng(0).normal(size=(2, steps, tokens, dim)).astype(np.float32)
    rows = torch.tensor(x.transpose(0, 2, 1, 3).reshape(-1, steps, dim))
    back = lambda y: y.numpy().reshape(2, tokens, -1, dim).transpose(0, 2, 1, 3)
    with torch.no_grad():
        clip = back(reference(rows))
        cache = DynamicCache(config=config)
        live = [reference(rows[:, t : t + 1], cache_params=cache) for t in range(steps)]
        live = back(torch.cat(live, 1))
    module = GatedDelta(dim, heads, dk, dv, eps=config.rms_norm_eps)
    with jax.default_matmul_precision("highest"):
        step = jax.jit(module.apply)
        _, got = step(params, module.init_carry(2, tokens), x)
        carry, outputs = module.init_carry(2, tokens), []
        for t in range(steps):
            carry, y = step(params, carry, x[:, t : t + 1])
            outputs.append(y)
    # At T = 70 the reference's own clip and steps are 8.5e-6 apart (outputs up to 11.5) and ours
    # 3.0e-6, so its steps are the sharper judge of both our forms.
    close(f"GatedDelta clip T={steps}", got, clip, 2e-5)
    close(f"GatedDelta clip T={steps} vs reference steps", got, live, 1e-5)
    close(f"GatedDelta steps T={steps}", np.concatenate(outputs, 1), live, 1e-5)


def test_initial_rates_and_steps_lie_in_their_ranges():
    rate = np.exp(rate_init(KEY(0), (512,)))
    step = np.logaddexp(0, np.asarray(step_init(KEY(1), (512,))))
    assert 0 < rate.min() < 0.5 and 15.5 < rate.max() <= 16
    assert 0.99e-3 < step.min() < 1.2e-3 and 0.08 < step.max() < 0.101


def test_bf16_computes_with_an_fp32_state():
    module, params = mixer(dtype=jnp.bfloat16)
    plain, _ = mixer()
    x = frames(4, 2, 6)
    carry, y = jax.jit(module.apply)(params, module.init_carry(2, 3), x)
    _, want = jax.jit(plain.apply)(params, plain.init_carry(2, 3), x)
    assert carry.s.dtype == jnp.float32 and y.dtype == jnp.bfloat16
    close("bf16", y.astype(jnp.float32), want, 0.05)
