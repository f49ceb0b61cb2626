"""The Mamba-2 mixer against transformers and against its own chunked and streamed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.mamba2 import Mamba2, rate_init

from .compare import close

KEY = jax.random.key


def frames(seed, batch, steps, tokens=3, dim=16):
    return jax.random.normal(KEY(seed), (batch, steps, tokens, dim))


@pytest.mark.parametrize("groups", [1, 2])
def test_equals_transformers_clip_and_steps(groups):
    torch = pytest.importorskip("torch")
    mamba = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    from transformers import DynamicCache, Mamba2Config

    dim, heads, width, state, tokens, steps = 16, 4, 8, 8, 3, 21
    config = Mamba2Config(
        hidden_size=dim, expand=2, num_heads=heads, head_dim=width, state_size=state,
        n_groups=groups, conv_kernel=4, chunk_size=8, num_hidden_layers=1, vocab_size=8,
    )  # fmt: skip
    reference = mamba.Mamba2Mixer(config, 0).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_(std=0.5)
    w = {k: v.detach().numpy() for k, v in reference.named_parameters()}
    inner = heads * width
    cut = [inner, 2 * inner + 2 * groups * state]
    gate, xbc, step = (p.T for p in np.split(w["in_proj.weight"], cut, axis=0))
    params = {
        "params": {
            "gate": {"kernel": gate},
            "xbc": {"kernel": xbc},
            "step": {"kernel": step},
            "out": {"kernel": w["out_proj.weight"].T},
            "conv_kernel": w["conv1d.weight"][:, 0].T,
            "conv_bias": w["conv1d.bias"],
            "log_rate": w["A_log"],
            "step_bias": w["dt_bias"],
            "skip": w["D"],
            "norm_scale": w["norm.weight"],
        }
    }
    x = np.random.default_rng(0).normal(size=(2, steps, tokens, dim)).astype(np.float32)
    rows = torch.tensor(x.transpose(0, 2, 1, 3).reshape(-1, steps, dim))
    back = lambda y: y.numpy().reshape(2, tokens, -1, dim).transpose(0, 2, 1, 3)
    with torch.no_grad():
        clip = back(reference(rows))
        cache = DynamicCache(config=config)
        live = [reference(rows[:, t : t + 1], cache_params=cache) for t in range(steps)]
        live = back(torch.cat(live, 1))
        last = cache.get_recurrent_state(0).numpy()  # [B * N, H, P, n]
    last = last.transpose(0, 3, 1, 2).reshape(2, tokens, state, inner)
    module = Mamba2(
        dim, expand=2, state=state, head_dim=width, groups=groups, chunk=8,
        eps=config.layer_norm_epsilon,
    )  # fmt: skip
    apply = jax.jit(module.apply)
    with jax.default_matmul_precision("highest"):
        for name, want, lengths in (
            ("clip", clip, [steps]),
            ("steps", live, [1] * steps),
            ("chunks", live, [5, 1, 8, 7]),
        ):
            carry, outputs, at = module.init_carry(2, tokens), [], 0
            for n in lengths:
                carry, y = apply(params, carry, x[:, at : at + n])
                outputs.append(y)
                at += n
            close(f"Mamba2 {name}", np.concatenate(outputs, 1), want, 1e-5)
            close(f"Mamba2 state {name}", carry.h, last, 1e-5)


def test_published_initial_values():
    np.testing.assert_allclose(np.exp(rate_init(KEY(0), (5,))), [1, 2, 3, 4, 5], rtol=1e-6)
    module = Mamba2(16)
    params = module.init(KEY(1), module.init_carry(1, 3), frames(0, 1, 2))["params"]
    step = np.logaddexp(0, np.asarray(params["step_bias"]))
    assert (step >= 1e-3).all() and (step <= 0.1001).all() and (params["skip"] == 1).all()


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="head_dim 5 of Mamba2 does not divide the inner width 16"):
        Mamba2(16, head_dim=5).init_carry(1, 3)
    with pytest.raises(ValueError, match="groups 3 of Mamba2 does not divide 2 heads"):
        Mamba2(16, head_dim=8, groups=3).init_carry(1, 3)


def test_bf16_computes_with_an_fp32_state():
    module, plain = Mamba2(16, dtype=jnp.bfloat16), Mamba2(16)
    x = frames(4, 2, 6)
    params = jax.jit(plain.init)(KEY(1), plain.init_carry(2, 3), x)
    carry, y = jax.jit(module.apply)(params, module.init_carry(2, 3), x)
    _, want = jax.jit(plain.apply)(params, plain.init_carry(2, 3), x)
    assert carry.h.dtype == jnp.float32 and y.dtype == jnp.bfloat16
    close("bf16", y.astype(jnp.float32), want, 0.05 * float(jnp.abs(want).max()))
