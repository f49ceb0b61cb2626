"""The converter engine: every rule form against arrays written out by hand, every error."""

import json
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from streamzoo.zoo import convert as cv
from streamzoo.zoo.convert import ConvertError, Plan, Rule, convert
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.trees import nest

LAYER = r"enc\.(?P<layer>\d+)\."


def _arange(*shape, start=0):
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


def test_fused_qkv_is_stacked_over_depth():
    width, depth = 3, 11  # 11 layers: row 10 must not sort before row 2
    tensors, rules = {}, []
    for part, name in enumerate("qkv"):
        for layer in range(depth):
            tensors[f"enc.{layer}.{name}.weight"] = _arange(width, width, start=100 * layer + part)
        rules.append(
            Rule(
                LAYER + name + r"\.weight",
                "blocks/layer0/attn/qkv/kernel",
                cv.linear,
                stack=depth,
                part=(part, 3),
            )
        )
    kernel = convert(tensors, rules)["params"]["blocks"]["layer0"]["attn"]["qkv"]["kernel"]
    assert kernel.shape == (depth, width, 3 * width)
    x = np.array([0.5, -1.0, 2.0], np.float32)
    for layer in range(depth):
        torch_side = [tensors[f"enc.{layer}.{name}.weight"] @ x for name in "qkv"]
        np.testing.assert_array_equal(x @ kernel[layer], np.concatenate(torch_side))


def test_absent_key_bias_becomes_zeros_between_q_and_v():
    rules = [
        Rule("q", "bias", cv.then_zeros, part=(0, 2)),
        Rule("v", "bias", part=(1, 2)),
    ]
    out = convert({"q": np.array([1.0, 2.0]), "v": np.array([3.0, 4.0])}, rules)
    np.testing.assert_array_equal(out["params"]["bias"], [1, 2, 0, 0, 3, 4])


def test_sum_of_two_biases_and_one_source_for_two_targets():
    rules = [
        Rule("bias_ih", "bias", merge="sum", part=(0, 2)),
        Rule("bias_hh", "bias", merge="sum", part=(1, 2)),
        Rule("fused", "first", lambda x: x[:1]),
        Rule("fused", "second", lambda x: x[1:]),
    ]
    tensors = {"bias_ih": _arange(2), "bias_hh": _arange(2, start=10), "fused": _arange(3)}
    params = convert(tensors, rules)["params"]
    np.testing.assert_array_equal(params["bias"], [10, 12])
    np.testing.assert_array_equal(params["first"], [0])
    np.testing.assert_array_equal(params["second"], [1, 2])


def test_period_deals_layers_out_to_slots():
    tensors = {f"enc.{i}.b": np.full(2, i, np.float32) for i in range(6)}
    params = convert(tensors, [Rule(LAYER + "b", "layer{slot}/b", stack=2, period=3)])["params"]
    for slot in range(3):
        np.testing.assert_array_equal(params[f"layer{slot}"]["b"][:, 0], [slot, slot + 3])


def test_layer_group_without_stack_keeps_separate_paths():
    params = convert(
        {"enc.0.b": _arange(1), "enc.1.b": _arange(2)}, [Rule(LAYER + "b", "l{layer}")]
    )
    assert {name: leaf.shape for name, leaf in params["params"].items()} == {"l0": (1,), "l1": (2,)}


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv3d"])
def test_transforms_compute_what_torch_computes(kind):
    torch = pytest.importorskip("torch")
    from flax import linen as nn

    torch.manual_seed(0)
    spatial = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}[kind]
    window = (2, 3, 4)[:spatial]
    if spatial:
        theirs = getattr(torch.nn, f"Conv{spatial}d")(5, 7, window)
        ours: Any = nn.Conv(7, window, padding="VALID")
    else:
        theirs = torch.nn.Linear(5, 7)
        ours: Any = nn.Dense(7)
    x = np.random.default_rng(0).normal(size=(2, *[n + 2 for n in window], 5)).astype(np.float32)
    with torch.no_grad():
        moved = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
        want = np.moveaxis(theirs(moved).numpy(), 1, -1)
    tensors = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    rules = [Rule("weight", "kernel", getattr(cv, kind)), Rule("bias", "bias")]
    np.testing.assert_allclose(ours.apply(convert(tensors, rules), x), want, atol=2e-6)


def test_every_problem_is_listed_at_once():
    rules = [
        Rule(LAYER + "a", "blocks/a", stack=3),
        Rule("never", "head/kernel"),
        Rule("maybe", "head/extra", optional=True),
        Rule("one", "same"),
        Rule("two", "same"),
        Rule("vector", "dense", cv.linear),
    ]
    tensors = {
        "enc.0.a": _arange(2),
        "enc.2.a": _arange(2),
        "enc.3.a": _arange(2),
        "stray.weight": _arange(1),
        "skipped.7": _arange(1),
        "one": _arange(1),
        "two": _arange(1),
        "vector": _arange(4),
    }
    with pytest.raises(ConvertError) as caught:
        convert(tensors, rules, ignore=[r"skipped\.\d+"])
    text = str(caught.value)
    assert "1 unused source keys: stray.weight" in text
    assert "head/kernel (no key matches 'never')" in text
    assert "blocks/a (row 1 part 0 of 1)" in text
    assert "enc.3.a is row 3 of 3" in text
    assert "same: filled by one and by two" in text
    assert "linear(vector [4])" in text
    assert "head/extra" not in text and "skipped" not in text and "\n" not in text


def test_patterns_match_whole_keys_only():
    with pytest.raises(ConvertError, match="unused source keys: weight_v2"):
        convert({"weight": _arange(1), "weight_v2": _arange(1)}, [Rule("weight", "kernel")])


def test_lacking_part_unequal_rows_and_unequal_sum():
    parts = [Rule("q", "qk", part=(0, 2)), Rule("k", "qk", part=(1, 2), optional=True)]
    with pytest.raises(ConvertError, match=r"qk \(part 1 of 2\)"):
        convert({"q": _arange(2)}, parts)
    with pytest.raises(ConvertError, match=r"rows.*enc\.0\.a \[2\], enc\.1\.a \[3\]"):
        convert(
            {"enc.0.a": _arange(2), "enc.1.a": _arange(3)}, [Rule(LAYER + "a", "rows", stack=2)]
        )
    add = [Rule("a", "s", merge="sum", part=(0, 2)), Rule("b", "s", merge="sum", part=(1, 2))]
    with pytest.raises(ConvertError, match=r"a \[3\], b \[1\]"):
        convert({"a": _arange(3), "b": _arange(1)}, add)


def test_rules_of_one_target_must_agree():
    rules = [Rule("a", "s", part=(0, 2)), Rule("b", "s", part=(1, 2), axis=0)]
    with pytest.raises(ConvertError, match="disagree on stack"):
        convert({"a": _arange(2), "b": _arange(2)}, rules)
    with pytest.raises(ConvertError, match="group named 'layer'"):
        Rule("a", "b", stack=2)
    with pytest.raises(ConvertError, match=r"\(3, 3\)"):
        Rule("a", "b", part=(3, 3))


def test_template_reports_missing_unexpected_and_misshaped():
    template = nest(
        {
            "kernel": jax.ShapeDtypeStruct((3, 2), np.float32),
            "gone": jax.ShapeDtypeStruct((1,), np.float32),
        }
    )
    rules = [Rule("w", "kernel"), Rule("x", "new")]
    with pytest.raises(ConvertError) as caught:
        convert({"w": _arange(2, 3), "x": _arange(1)}, rules, template=template)
    text = str(caught.value)
    assert "1 missing: gone" in text and "1 unexpected: new" in text
    assert "kernel [2, 3] instead of [3, 2]" in text


def test_dtype_of_floats_only():
    tensors = {"w": np.array([1.5], ml_dtypes.bfloat16), "i": np.array([3], np.int32)}
    rules = [Rule("w", "w"), Rule("i", "i")]
    params = convert(tensors, rules)["params"]
    assert params["w"].dtype == np.float32 and params["w"] == 1.5 and params["i"].dtype == np.int32
    assert convert(tensors, rules, dtype=None)["params"]["w"].dtype == ml_dtypes.bfloat16


@pytest.fixture
def toy(monkeypatch):
    cv.import_converters()  # into the real table, not into the one of this test
    monkeypatch.setattr(cv, "CONVERTERS", {})
    rules = [Rule("toy.w", "kernel", cv.linear)]
    return cv.register_converter(
        cv.Converter(
            "toy",
            detect=lambda keys, config: "toy.w" in keys,
            plan=lambda tensors, config: Plan(
                "toy-s16", rules, {"width": (config or {}).get("width", 0)}
            ),
        )
    )


def test_converters_are_detected(toy):
    assert cv.detect_converter(["toy.w"]) is toy
    with pytest.raises(ConvertError, match=r"no converter.*other\.w.*converters: toy"):
        cv.detect_converter(["other.w"])
    with pytest.raises(ConvertError, match="registered already"):
        cv.register_converter(toy)
    cv.register_converter(cv.Converter("greedy", lambda keys, config: True, toy.plan))
    with pytest.raises(ConvertError, match="several converters.*toy, greedy"):
        cv.detect_converter(["toy.w"])
    with pytest.raises(ConvertError, match="unknown converter 'nix'; converters: greedy, toy"):
        cv.convert_checkpoint("never_read.safetensors", "nix")


def test_folder_of_shards_with_config(toy, tmp_path):
    save_file({"toy.w": _arange(2, 3).astype(ml_dtypes.bfloat16)}, tmp_path / "a-1.safetensors")
    save_file({"other": _arange(1)}, tmp_path / "a-2.safetensors")
    with pytest.raises(WeightsError, match="2 safetensors files"):
        cv.read_checkpoint(tmp_path)
    index = {"weight_map": {"toy.w": "a-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="config.json: not JSON"):
        cv.read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"width": 5}')
    template = nest({"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)})
    plan, variables = cv.convert_checkpoint(tmp_path, template=lambda plan: template)
    assert plan.model == "toy-s16" and plan.overrides == {"width": 5}
    np.testing.assert_array_equal(variables["params"]["kernel"], _arange(2, 3).T)


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "ava.pth"
    path.write_bytes(b"\x80\x02.")
    with pytest.raises(WeightsError, match="pickles.*streamzoo convert"):
        cv.read_checkpoint(path)
