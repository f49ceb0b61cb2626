"""Meshes: the rules by name, one clear line where they do not fit, and the same losses on all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from streamzoo.train import settings, sharding
from streamzoo.train.loop import run
from streamzoo.train.sharding import MeshConfig, MeshError, make_mesh, spec_of

TOY = Path(__file__).with_name("toy.py")
MESHES = {
    "data": ["loop.mesh.data=8"],
    "fsdp": ["loop.mesh.fsdp=8", "loop.mesh.data=1"],
    "tensor": ["loop.mesh.tensor=8"],
    "all": ["loop.mesh.fsdp=2", "loop.mesh.tensor=2", "loop.accumulate=2"],
}

SHORT = ["noise=0", "loop.steps=10", "loop.checkpoint_every=0"]
CHILD = """
import json, sys, jax
from streamzoo.train import settings
from streamzoo.train.loop import run
out = {}
for name, changes in json.loads(sys.argv[3]).items():
    changes = [f"loop.out={sys.argv[2]}/{name}", *sys.argv[4:], *changes]
    config = settings.override(settings.load_config(sys.argv[1]), changes)
    result = run(config.build(), config.loop, log=lambda text: None)
    layer = result.state.params["blocks"]["layer0"]["mlp"]
    opt = jax.tree.leaves(result.state.optimiser)
    out[name] = {
        "devices": jax.device_count(),
        "loss": [row["loss"] for row in result.history],
        "up": str(layer["up"]["kernel"].sharding.spec),
        "cut": [sum(a.addressable_data(0).size for a in opt), sum(a.size for a in opt)],
        "memory": result.state.memory["h"].addressable_data(0).shape[0],
        "size": result.scores["size"],
    }
print(json.dumps(out))
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(tmp_path):
    # Eight devices on two cores: programs that meet in any order wait for each other for ever.
    in_order = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8 {in_order}"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(TOY), str(tmp_path), json.dumps(MESHES), *SHORT],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    config = settings.override(settings.load_config(TOY), [f"loop.out={tmp_path}/1", *SHORT])
    alone = run(config.build(), config.loop, log=lambda text: None)
    want = [row["loss"] for row in alone.history]
    for name, result in found.items():
        assert result["devices"] == 8
        np.testing.assert_allclose(result["loss"], want, rtol=1e-5, err_msg=name)
        assert result["size"] == pytest.approx(alone.scores["size"], rel=1e-5)
    assert found["data"]["memory"] == found["fsdp"]["memory"] == 1
    assert found["tensor"]["memory"] == 8 and found["all"]["memory"] == 2
    assert found["fsdp"]["up"] == str(P(None, None, "fsdp"))
    assert found["tensor"]["up"] == str(P(None, None, "tensor"))
    assert found["all"]["up"] == str(P(None, "fsdp", "tensor"))
    share = {name: a / b for name, (a, b) in ((n, r["cut"]) for n, r in found.items())}
    assert share["data"] == 1 and share["fsdp"] < 0.25 and share["tensor"] < 0.5


@pytest.mark.parametrize(
    "path, shape, spec",
    [
        ("/params/blocks/layer0/attn/qkv/kernel", (4, 8, 24), P(None, "fsdp", "tensor")),
        ("/params/blocks/layer0/attn/qkv/bias", (4, 24), P(None, "tensor")),
        ("/params/blocks/layer0/attn/out/kernel", (4, 8, 8), P(None, "tensor", "fsdp")),
        ("/params/blocks/layer0/attn/out/bias", (4, 8), P(None, "fsdp")),
        ("/optimiser/1/mu/a/blocks/layer1/mlp/up/kernel", (4, 8, 32), P(None, "fsdp", "tensor")),
        ("/params/blocks/layer0/mlp/down/kernel", (4, 32, 8), P(None, "tensor", "fsdp")),
        ("/params/blocks/layer0/norm1/scale", (4, 7), P(None, None)),
        ("/params/patch_embed/kernel", (48, 9), P("fsdp", None)),
        ("/params/head/bias", (3,), P(None)),
        ("/params/blocks/layer0/mlp/up/kernel", (4, 6, 31), P(None, "fsdp", None)),
        ("/step", (), P()),
    ],
)  # fmt: skip
def test_rules_by_name(path, shape, spec):
    mesh = AbstractMesh((1, 2, 2), ("data", "fsdp", "tensor"))
    assert spec_of(path, shape, mesh) == spec  # pyright: ignore


@pytest.mark.parametrize(
    "config, lanes, parts, text",
    [
        (MeshConfig(data=3), 12, 1, "data=3, fsdp=1, tensor=1 is of 3 devices and there are 8"),
        (MeshConfig(fsdp=3), 12, 1, "does not divide 8 devices"),
        (MeshConfig(data=2), 12, 1, "a size of -1 takes what is there"),
        (MeshConfig(fsdp=-1), 8, 1, "at most one"),
        (MeshConfig(), 12, 1, "loop.batch=12 cannot be shared out over data=8 x fsdp=1"),
        (MeshConfig(), 12, 1, "loop.batch=16 can"),
        (MeshConfig(fsdp=2), 8, 2, "and 2 micro-batches; loop.batch=16 can"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_clear_line(monkeypatch, config, lanes, parts, text):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(MeshError) as error:
        make_mesh(config, lanes, parts)
    assert text in str(error.value) and "\n" not in str(error.value)


def test_the_tensor_axis_stays_in_one_process(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    with pytest.raises(MeshError, match="would span processes, which hold 2 devices each"):
        make_mesh(MeshConfig(tensor=4), 8)


def test_copies_can_be_donated():
    mesh = make_mesh(MeshConfig(), 4)
    first = {"a": jax.numpy.ones(4)}
    placed = sharding.place(first, sharding.of_weights(first, mesh))
    step = jax.jit(lambda t: jax.tree.map(lambda a: a + 1, t), donate_argnums=0)
    assert float(step(sharding.copied(placed))["a"].sum()) == 8.0
    assert float(first["a"].sum()) == float(placed["a"].sum()) == 4.0
