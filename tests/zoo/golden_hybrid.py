"""What transformers makes of random weights in the shapes of our hybrid students.

    python -m tests.zoo.golden_hybrid    # wants torch and transformers; writes data/hybrid.npz

Weights are drawn by name, here and in the test, so that only names, shapes and answers are kept.
``JambaModel`` holds transformers' ``Mamba2Mixer`` in place of its Mamba-1, as our form does.
"""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "data" / "hybrid.npz"
DIM, TOKENS, STEPS = 128, 2, 12


def drawn(shapes):
    """{name: shape} -> {name: array}, the same wherever it is called."""
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        a = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            a = 0.3 * a + ("norm" in name)
        else:
            a *= np.float32(
                np.prod(shape[1:]) if len(shape) < 3 or shape[1] == 1 else shape[2]
            ) ** (-0.5)
        weights[name] = a.astype(np.float32)
    return weights


def pixels():
    """[T, 1, N, 3]: frames of N patches of one pixel."""
    return np.random.default_rng(0).normal(size=(STEPS, 1, TOKENS, 3)).astype(np.float32)


# the patch embedding and the positions of the patches
OURS = {"patch": (3, DIM), "positions": (TOKENS, DIM)}


def embeddings():
    """[T, N, D], what the layers are given."""
    ours = drawn(OURS)
    return pixels()[:, 0] @ ours["patch"] + ours["positions"]


def _qwen(moe):
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextModel

    config = Qwen3NextConfig(
        hidden_size=DIM, num_hidden_layers=4, vocab_size=8, intermediate_size=384,
        num_attention_heads=2, num_key_value_heads=1, head_dim=64, linear_num_key_heads=1,
        linear_num_value_heads=2, linear_key_head_dim=64, linear_value_head_dim=64,
        linear_conv_kernel_dim=4, mlp_only_layers=[] if moe else [0, 1, 2, 3], num_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=128, shared_expert_intermediate_size=128,
        norm_topk_prob=True, decoder_sparse_step=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        layer_types=["linear_attention"] * 3 + ["full_attention"],
    )  # fmt: skip
    return Qwen3NextModel(config)


def _jamba():
    import torch
    from transformers import JambaConfig, Mamba2Config
    from transformers.models.jamba.modeling_jamba import JambaModel
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = JambaConfig(
        hidden_size=DIM, num_hidden_layers=8, vocab_size=8, intermediate_size=256,
        num_attention_heads=2, num_key_value_heads=1, num_experts=8, num_experts_per_tok=2,
        attn_layer_period=8, attn_layer_offset=4, expert_layer_period=2, expert_layer_offset=1,
       
    )  # fmt: skip
    own = Mamba2Config(
        hidden_size=DIM, expand=1, num_heads=2, head_dim=64, state_size=64, n_groups=1,
        conv_kernel=4, chunk_size=8, layer_norm_epsilon=1e-5,
    )  # fmt: skip

    class Mixer(torch.nn.Module):
        def __init__(self, index):
            super().__init__()
            self.own = Mamba2Mixer(own, index)

        def forward(self, hidden_states, **_):
            return self.own(hidden_states)

    model = JambaModel(config)
    for index, layer in enumerate(model.layers):
        if hasattr(layer, "mamba"):
            layer.mamba = Mixer(index)
    return model


def _nemotron():
    from transformers import NemotronHConfig, NemotronHModel

    pair = ["linear_attention", "mlp"]
    config = NemotronHConfig(
        hidden_size=DIM, vocab_size=8, intermediate_size=512, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, ssm_state_size=64, mamba_num_heads=2,
        mamba_head_dim=64, n_groups=1, expand=1, chunk_size=8,
        layers_block_type=[*pair * 4, "linear_attention", "full_attention", "mlp"],
    )  # fmt: skip
    return NemotronHModel(config)


MODELS = {
    "qwennext": lambda: _qwen(False),
    "qwennextmoe": lambda: _qwen(True),
    "jamba": _jamba,
    "nemotronh": _nemotron,
}


def main():
    import torch

    from ..parity.shim import mend_torchvision

    mend_torchvision()
    found = {}
    rows = (
        torch.tensor(embeddings()).transpose(0, 1).contiguous()
    )  # every token is a sequence of its own
    for arch, make in MODELS.items():
        model = make().eval()
        shapes = {k: tuple(v.shape) for k, v in model.named_parameters() if "embed" not in k}
        weights = drawn(shapes)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in weights:
                    p.copy_(torch.tensor(weights[name]))
            y = model(inputs_embeds=rows, use_cache=False).last_hidden_state
        print(arch, len(shapes), y.shape, float(y.std()))
        found[f"{arch}/y"] = y.numpy().swapaxes(0, 1)
        found[f"{arch}/shapes"] = json.dumps(shapes)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
