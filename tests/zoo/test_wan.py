"""Wan's transformer against diffusers' and the authors' numbers, under both of their names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.rollout.masks import block_causal, teacher_forcing

from ..layers.compare import close
from .wan_goldens import clip, golden, needs_goldens, network

pytestmark = needs_goldens


def apply(model, variables, *args, **options):
    return jax.jit(lambda v, *a: model.apply(v, *a, **options))(variables, *args)


def test_diffusers_network_by_frame_and_by_token():
    z, weights, _ = golden("wan_transformer_tiny")
    model, variables = network(weights)
    x = clip(z["x"])
    close("per clip", apply(model, variables, x, z["t"], z["text"]), clip(z["out"]), 5e-6)
    times = z["t_per_token"].reshape(2, 5, 6)
    got = apply(model, variables, x, times, z["text"])
    close("per token", got, clip(z["out_per_token"]), 5e-6)


def test_both_namings_give_one_network():
    z, weights, meta = golden("wan_official_vs_diffusers")
    model, variables = network(weights)
    got = apply(model, variables, clip(z["x"]), z["t"], z["text"])
    close("the authors'", got, clip(z["out_official"]), 5e-6)
    renamed = {}
    for theirs, own in meta["rename"].items():
        for layer in range(2) if ".0." in theirs[:9] else [0]:
            of = lambda key: key.replace("blocks.0.", f"blocks.{layer}.")
            renamed[of(theirs)] = weights[of(own)]
    assert len(renamed) == len(weights)
    _, other = network(renamed, num_attention_heads=2)
    assert jax.tree.structure(other) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, other, variables)


@pytest.mark.parametrize("wrap", ["generator.model.", "generator_ema.model._fsdp_wrapped_module."])
def test_files_of_self_forcing(wrap):
    _, weights, _ = golden("self_forcing_rollout_w12_s3")
    _, want = network(weights)
    wrapped = {wrap + key: value for key, value in weights.items()}
    # the set that is not averaged, and a critic, lie beside it
    wrapped |= {"generator.model." + k: v + 1 for k, v in weights.items() if "ema" in wrap}
    wrapped |= {"critic.model." + k: v + 2 for k, v in weights.items()}
    _, got = network(wrapped)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_training_passes_with_masks():
    z, weights, _ = golden("causal_train_masks")
    model, variables = network(weights)
    x, clean = clip(z["x"]), clip(z["clean_x"])
    mask = jnp.asarray(block_causal(9, 3))
    got = apply(model, variables, x, z["t"], z["text"], mask=mask)
    close("block causal", got, clip(z["out_blockcausal"]), 5e-6)
    both = np.concatenate([clean, x], axis=1)
    places = jnp.tile(jnp.arange(9, dtype=jnp.int32), 2)
    mask = jnp.asarray(teacher_forcing(9, 3))
    for name, aug in (("out_teacher_forcing", 0.0), ("out_teacher_forcing_aug100", 100.0)):
        times = np.concatenate([np.full((1, 9), aug, np.float32), z["t"]], axis=1)
        got = apply(model, variables, both, times, z["text"], places=places, mask=mask)[:, 9:]
        close(name, got, clip(z[name]), 5e-6)


def test_masks_are_the_authors():
    z, _, _ = golden("causal_train_masks")
    for name in (key for key in z if key.startswith("mask_")):
        shape = tuple(z["shape" + name[4:]])
        want = np.unpackbits(z[name])[: shape[0] * shape[1]].reshape(shape).astype(bool)
        kind, *sizes = name.removeprefix("mask_").split("_")
        frames, block = int(sizes[0][1:]), int(sizes[1][1:])
        window = int(sizes[2][1:]) if len(sizes) > 2 else -1
        if kind == "tf":
            got = teacher_forcing(frames, block)
        else:
            first = 1 if kind == "i2v" else 0
            got = block_causal(frames, block, window if window > 0 else None, first)
        np.testing.assert_array_equal(np.kron(got, np.ones((2, 2), bool)), want, name)
    with pytest.raises(ValueError, match="7 frames are no first block of 3"):
        block_causal(7, 3)
