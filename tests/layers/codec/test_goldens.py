"""The codecs against arrays that their authors' own functions wrote."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.codec import hadamard, integers, kivi, nvfp4, packing, paretoq, spin, w8a8

FOLDER = Path(__file__).parents[4] / "shared/goldens/compact"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the goldens of ../shared are not here")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def same(got, want) -> None:
    np.testing.assert_array_equal(np.asarray(got), want)


def test_groups_codes_and_words_are_those_of_compressed_tensors():
    z = golden("w4a16_w8a8")
    for bits, form, group in itertools.product((2, 3, 4, 8), ("sym", "asym"), (32, 128)):
        key = f"ct_b{bits}_{form}_g{group}_"
        codes = integers.quantise(z["w"], bits, group=group, symmetric=form == "sym")
        same(codes.codes, z[key + "q"])
        same(codes.zero, z[key + "zero"])
        there = codes.scale > 0  # a group of zeros has any scale
        np.testing.assert_allclose(codes.scale[there], z[key + "scale"][there], rtol=1e-7)
        np.testing.assert_allclose(integers.dequantise(codes), z[key + "deq"], atol=1e-6)
        same(packing.pack(codes.codes, bits), z[key + "packed"])
        same(packing.unpack(z[key + "packed"], bits, 384), z[key + "q"])


def test_torchao_and_qwix_differ_at_ties_alone():
    z = golden("w4a16_w8a8")
    codes = integers.quantise(z["w"], 4, group=128)
    ratio = z["w"].reshape(8, 3, 128) / np.where(codes.scale > 0, codes.scale, 1)[..., None]
    tie = (np.abs(ratio % 1 - 0.5) < 1e-5).reshape(8, 384)
    away = np.abs(integers.dequantise(codes) - z["ao_sym_g128_deq"]) > 1e-6
    assert away.sum() == 2 and tie[away].all()
    away = codes.codes != z["qwix_int4_q"]
    assert away.sum() == 5 and tie[away].all()
    flat = integers.quantise(z["w"], 4, group=128, symmetric=False)
    np.testing.assert_allclose(integers.dequantise(flat), z["ao_asym_g128_deq"], atol=1e-6)


def test_w8a8_is_the_integer_reference():
    z = golden("w4a16_w8a8")
    qx, sx = w8a8.per_row(jnp.asarray(z["w8a8_x"]))
    qw, sw = w8a8.per_row(jnp.asarray(z["w"]))
    same(qx, z["w8a8_qx"])
    same(qw, z["w8a8_qw"])
    same(w8a8.integer_product(qx, qw.T), z["w8a8_acc"])
    np.testing.assert_allclose(sx[:, 0], z["w8a8_sx"], rtol=1e-6, atol=1e-11)  # a row of zeros
    got = w8a8.product(jnp.asarray(z["w8a8_x"]), qw.T, sw[:, 0])
    np.testing.assert_allclose(got, z["w8a8_y"], rtol=1e-6, atol=1e-6)


def test_nvfp4_is_torchaos_bit_by_bit():
    z = golden("nvfp4")
    got = nvfp4.quantise(jnp.asarray(z["x"]))
    assert float(got.whole) == float(z["ao_pts"])
    same(got.codes, z["ao_codes"])
    same(np.asarray(got.scale).view(np.uint8), z["ao_scale_u8"])
    same(nvfp4.dequantise(got), z["ao_deq"])
    same(nvfp4.values_of(jnp.arange(16, dtype=jnp.uint8)), z["code_values"])
    # every tie of the rounding table, in blocks whose scale is 1
    table = z["tab_x"]
    blocks = np.zeros((len(table), 16), np.float32)
    blocks[:, 0], blocks[:, 1] = table, 6
    codes = nvfp4.quantise(jnp.asarray(blocks), whole=jnp.float32(1)).codes[:, 0] & 15
    inside = np.abs(table) <= 6
    same(np.asarray(codes)[inside], z["tab_ao_code"][inside])


def test_nvfp4_of_one_level_and_of_the_other_packages():
    z = golden("nvfp4")
    alone = nvfp4.quantise(jnp.asarray(z["x"]), whole=jnp.float32(1))
    same(alone.codes, z["ao1_codes"])
    same(np.asarray(alone.scale).view(np.uint8), z["ao1_scale_u8"])
    same(nvfp4.dequantise(alone), z["ao1_deq"])
    # they bound a block's scale elsewhere, and nothing else differs but three codes at ties
    got = nvfp4.quantise(jnp.asarray(z["x"]))
    scale = np.asarray(got.scale)
    least = scale.astype(np.float32) == 2.0**-6
    for package, codes, atol in (("ct", 0, 1e-5), ("mo", 3, 4e-5)):
        assert (np.asarray(got.codes) != z[f"{package}_codes"]).sum() == codes
        same((scale.view(np.uint8) != z[f"{package}_scale_u8"].reshape(scale.shape)), least)
        np.testing.assert_allclose(nvfp4.dequantise(got), z[f"{package}_deq"], atol=atol)
    same(np.arange(256, dtype=np.uint8).view(scale.dtype).astype(np.float32), z["e4m3_values"])
    assert float(got.whole) == z["mo_gs"]
    np.testing.assert_allclose(1 / float(got.whole), z["ct_gs"], rtol=1e-6)


@pytest.mark.parametrize("bits, key", [(1, "b1"), (1.58, "b158"), (2, "b2"), (3, "b3"), (4, "b4")])
def test_paretoq_and_its_gradients_are_the_authors(bits, key):
    z = golden("paretoq")
    np.testing.assert_allclose(
        paretoq.first_alpha(z["w"], bits, -1), z[f"{key}_init_alpha"], rtol=1e-6
    )
    cases = [f"{key}_{kind}" for kind in ("init", "small", "big", "tie", "layer")]
    for case, w, alpha, g in [
        *((case, z["w"], z[f"{case}_alpha"], z["g"]) for case in cases),
        (f"grid_{key}", z["grid_w"], z["grid_alpha"], np.ones_like(z["grid_w"])),
    ]:
        y, back = jax.vjp(lambda w, a: paretoq.fake_quantise(w, a, bits), w, alpha)
        gw, ga = back(jnp.asarray(g))
        same(y, z[f"{case}_y"])
        if case.startswith("grid"):
            continue  # of another upstream gradient
        same(gw, z[f"{case}_gw"])
        want = z[f"{case}_ga"]
        np.testing.assert_allclose(ga, want, rtol=2e-6, atol=1e-6 * np.abs(want).max())


def test_hadamard_products_are_spinquants():
    z = golden("spinquant")
    for order in (12, 20, 28, 36, 40, 44, 52, 60):
        ours, theirs = hadamard.base(order), z[f"had{order}"].astype(int)
        same(theirs @ theirs.T, order * np.eye(order, dtype=int))
        same(ours @ ours.T, len(ours) * np.eye(len(ours), dtype=int))  # 40: of 20, twice
    got = hadamard.transform(jnp.asarray(z["had_x96"]), z["had12"].astype(int))
    np.testing.assert_allclose(got, z["had_y96"], atol=1e-6)
    np.testing.assert_allclose(
        hadamard.transform(jnp.asarray(z["had_x64"])), z["had_y64"], atol=1e-6
    )
    assert int(z["hadK_336"]) == -1 and hadamard.base(336).shape == (84, 84)


def test_rotated_weights_are_spinquants():
    z = golden("spinquant")
    r1, r2 = z["R1"], z["R2"]
    kernel = lambda name: np.asarray(z[f"w:model.layers.0.{name}.weight"].T)
    gain = lambda name: np.asarray(z[f"w:model.layers.0.{name}.weight"])

    def check(name: str, got) -> None:
        np.testing.assert_allclose(got, z[f"rot:model.layers.0.{name}.weight"].T, atol=1e-6)

    heads = jnp.broadcast_to(r2[0], (4, 16, 16))
    before, after = gain("input_layernorm"), gain("post_attention_layernorm")
    own = lambda name, scale: spin.fold_norm(scale, None, kernel(name), None)[0]
    check("self_attn.q_proj", spin.reader(own("self_attn.q_proj", before), r1))
    values = spin.heads_written(spin.reader(own("self_attn.v_proj", before), r1), heads)
    check("self_attn.v_proj", values)
    out = spin.heads_read(spin.writer(kernel("self_attn.o_proj"), r1), heads)
    check("self_attn.o_proj", out)
    check("mlp.up_proj", spin.reader(own("mlp.up_proj", after), r1))
    # theirs has their own matrix of order 12, in the same place
    down = np.asarray(spin.writer(kernel("mlp.down_proj"), r1), np.float64)
    turned = hadamard.transform(jnp.asarray(down.T), z["had12"].astype(int)).T
    check("mlp.down_proj", turned)


def test_activation_and_weight_quantisers_are_spinquants():
    z = golden("spinquant")
    for bits, form, group, clip in itertools.product(
        (8, 4), ("sym", "asym"), (-1, 128), ("1.0", "0.9")
    ):
        key = f"act_b{bits}_{form}_g{group}_c{clip}_"
        codes = integers.quantise(
            z["act_x"], bits, group=max(group, 0) or None, symmetric=form == "sym",
            convention="whole", clip=float(clip),
        )  # fmt: skip
        np.testing.assert_allclose(integers.dequantise(codes), z[key + "y"], atol=1e-6)
    forms = itertools.product((8, 4, 3, 2), ("sym", "asym"), (-1, 64, 128), ("max", "mse"))
    for bits, form, group, how in forms:
        key = f"wq_b{bits}_{form}_g{group}_{how}_"
        make = integers.quantise if how == "max" else integers.search
        codes = make(
            z["wq_x"], bits, group=max(group, 0) or None, symmetric=form == "sym",
            convention="whole",
        )  # fmt: skip
        np.testing.assert_allclose(integers.dequantise(codes), z[key + "y"], atol=1e-6)


def test_keys_behind_r3_are_spinquants():
    z = golden("spinquant")
    turn = lambda x: hadamard.transform(jnp.asarray(x))
    np.testing.assert_allclose(turn(z["r3_q_in"]), z["r3_q"], atol=1e-6)
    keys = np.asarray(turn(z["r3_k_in"]))
    np.testing.assert_allclose(keys, z["r3_k_b16_g-1"], atol=1e-6)
    for bits, group in itertools.product((8, 4), (-1, 16)):
        # a group of -1 is a token with all its heads
        tokens = keys.swapaxes(1, 2).reshape(2, 6, 64)
        codes = integers.quantise(
            tokens, bits, group=max(group, 0) or None, symmetric=False, convention="whole"
        )
        back = integers.dequantise(codes).reshape(2, 6, 4, 16).swapaxes(1, 2)
        np.testing.assert_allclose(back, z[f"r3_k_b{bits}_g{group}"], atol=1e-6)


def test_the_cayley_steps_are_spinquants():
    z = golden("spinquant")
    here = jnp.asarray(z["cay_R0"])
    for i in range(5):
        loss, slope = jax.value_and_grad(lambda r: ((r - z["cay_T"]) ** 2).sum())(here)
        np.testing.assert_allclose(loss, z["cay_loss"][i], rtol=1e-5)
        np.testing.assert_allclose(slope, z["cay_g"][i], atol=1e-4)
        here = spin.cayley_step(here, slope, 1.5)
        np.testing.assert_allclose(here, z["cay_R"][i], atol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_keys_and_values_are_kivis(bits):
    z = golden("kv_kivi")
    keys, values = (
        kivi.quantise_keys(jnp.asarray(z["K"]), bits),
        kivi.quantise_values(jnp.asarray(z["V"]), bits),
    )
    for name, got in (("k", keys), ("v", values)):
        key = f"{name}_b{bits}_"
        same(got.codes, z[key + "code"])
        np.testing.assert_allclose(got.scale, z[key + "scale"], rtol=1e-6)
        np.testing.assert_allclose(got.least, z[key + "min"], rtol=1e-6)
    np.testing.assert_allclose(kivi.dequantise_keys(keys, bits), z[f"k_b{bits}_deq"], atol=1e-5)
    np.testing.assert_allclose(kivi.dequantise_values(values, bits), z[f"v_b{bits}_deq"], atol=1e-5)
    # a group without a spread has no scale, and its value is kept
    flat = kivi.quantise_keys(jnp.asarray(z["const_deq"]), bits)
    same(kivi.dequantise_keys(flat, bits), z["const_deq"])
