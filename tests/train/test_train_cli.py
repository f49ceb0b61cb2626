"""``python -m streamzoo.train``: what it prints, and one clear line for wrong input."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from streamzoo import configs
from streamzoo.train import settings
from streamzoo.train.__main__ import main, parser
from streamzoo.train.checkpoints import CheckpointError, WriteError
from streamzoo.train.data.base import DataError
from streamzoo.train.loop import Interrupted, TrainingError
from streamzoo.train.owner import FolderInUse
from streamzoo.zoo.files import load_file

TOY = Path(__file__).with_name("toy.py")
PODS = Path(str(configs.__file__)).parent / "pods"


def command(out, *changes):
    return ["--config", str(TOY), "--set", f"loop.out={out}", "loop.steps=3", *changes]


def test_a_run_says_what_it_uses_and_what_it_left(tmp_path, capsys):
    assert main(command(tmp_path, "noise=0")) == 0
    text = capsys.readouterr().out
    for part in (
        "noise=0.0\n", "devices: 1 x cpu (cpu), 1 process\n", "data: Source, 2 videos, 1 skipped\n",
        "step 3/3 ", "skipped: three: cannot be decoded\n", "evaluation: size ",
        f"weights: {tmp_path}/weights.safetensors\n", f"curves: {tmp_path}/curves.png\n",
    ):  # fmt: skip
        assert part in text, part
    assert json.loads((tmp_path / "config.json").read_text())["loop.steps"] == 3
    size = json.loads((tmp_path / "scores.json").read_text())["size"]
    variables, header = load_file(tmp_path / "weights.safetensors")
    leaves = [variables["params"]["head"]["kernel"], *variables["params"]["head"].values()]
    assert size > 0 and len(leaves) == 3
    assert json.loads(header["training"])["noise"] == 0.0

    # a finished run is told, not trained again
    before = (tmp_path / "log.csv").read_bytes()
    assert main(command(tmp_path, "noise=0")) == 0
    text = capsys.readouterr().out
    assert "all 3 steps are done; --fresh starts anew" in text and "step 1/3" not in text
    assert f"evaluation: size {size:.4g}" in text
    assert (tmp_path / "log.csv").read_bytes() == before

    # other settings: not silently
    changed = command(tmp_path, "noise=0", "width=16", "data.size=16")
    assert main(changed) == 2
    error = capsys.readouterr().err
    assert "data.size: 8 -> 16; width: 8 -> 16" in error and error.count("\n") == 1
    assert main([*changed, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "of another model" in error and "(2, 16), not (2, 32)" in error
    assert error.count("\n") == 1
    assert main(command(tmp_path, "noise=0", "loop.log_every=1")) == 0  # no matter


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "--list shows"),
        (["--config", "nothing"], "no config at"),
        (["--config", str(TOY), "--set", "loop.stepz=3"], "did you mean steps"),
        (["--config", str(TOY), "--set", "loop.steps=many"], "wants a whole number"),
        (["--config", str(TOY), "--set", "loop.steps=0"], "steps is at least 1"),
        (["--config", str(TOY), "--set", "loop.optim.name=sgd"], "adamw, muon"),
        (
            ["--config", str(TOY), "--set", "loop.mesh.data=3", "loop.out=OUT"],
            "is of 3 devices and there is 1",
        ),
        (["--config", str(TOY), "--set", "loop.accumulate=3", "loop.out=OUT"], "loop.batch=9 can"),
        (["--config", str(TOY), "--resume", "--set", "loop.out=OUT"], "there is no checkpoint in"),
        (["--config", str(TOY), "--set", "loop.out=OUT/file/x"], "file"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, text, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([a.replace("OUT", str(tmp_path)) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_bug_is_not_taken_for_wrong_input(tmp_path, monkeypatch):
    def build(self):
        int("x")

    config = settings.load_config(TOY)
    monkeypatch.setattr(type(config), "build", build)
    monkeypatch.setattr(settings, "load_config", lambda path: config)
    with pytest.raises(ValueError, match="invalid literal"):
        main(command(tmp_path))


@pytest.mark.parametrize(
    "error, status",
    [
        (TrainingError("not finite"), 1), (Interrupted("a peer is gone"), 75),
        (WriteError("disk full"), 75), (FolderInUse("in use"), 75), (DataError("no data"), 2),
        (CheckpointError("of another model"), 2), (OSError(2, "no such file", "x"), 2),
        (KeyboardInterrupt(), 130), (jax.errors.JaxRuntimeError("UNAVAILABLE: peer"), 75),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 1),
    ],
    ids=lambda one: str(one),
)  # fmt: skip
def test_the_exit_status_tells_whether_to_start_again(error, status, tmp_path, monkeypatch, capsys):
    def build(self):
        job = built(self)

        def broken(index, count):
            raise error
            yield

        return dataclasses.replace(job, batches=broken)

    config = settings.load_config(TOY)
    built = type(config).build
    monkeypatch.setattr(type(config), "build", build)
    monkeypatch.setattr(settings, "load_config", lambda path: config)
    if isinstance(error, OSError):  # in the run it is the disk's; here, before it, a wrong path
        monkeypatch.setattr(type(config), "build", lambda self: (_ for _ in ()).throw(error))
    assert main(command(tmp_path)) == status
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_list(capsys):
    child = subprocess.run(
        [sys.executable, "-m", "streamzoo.train", "--help"], capture_output=True, text=True
    )
    assert child.returncode == 0 and "example:" in child.stdout and "143" in child.stdout
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(settings.shipped())
    assert main(["--config", str(TOY), "--show", "--set", "loop.steps=3"]) == 0
    assert "loop.steps=3" in capsys.readouterr().out.splitlines()


def commands(text):
    return re.findall(r"-m streamzoo\.train ([^\n]*(?:\\\n[^\n]*)*)", text)


@pytest.mark.parametrize("path", sorted(PODS.glob("*.yaml")), ids=lambda p: p.name)
def test_manifests_are_whole(path):
    yaml = pytest.importorskip("yaml")
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
    jobset = next(d for d in documents if d["kind"] == "JobSet")
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    for group in jobset["spec"]["replicatedJobs"]:
        job = group["template"]["spec"]
        assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
        pod = job["template"]["spec"]
        selector = pod["nodeSelector"]
        rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
        (container,) = pod["containers"]
        chips = int(container["resources"]["limits"]["google.com/tpu"])
        assert chips * job["parallelism"] == rows * columns
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted == {v["name"] for v in pod["volumes"]}
        words = container["command"] + container.get("args", [])
        options = parser().parse_args(words[words.index("streamzoo.train") + 1 :])
        assert options.distributed and options.config in settings.shipped()
        for setting in (one for group in options.settings for one in group):
            assert setting.startswith("loop.")
        # the command can start, with nothing but the image and the empty volume
        config = settings.load_config(options.config)
        changes = [one for group in options.settings for one in group]
        settings.override(config, changes).check()
        assert not any(s.startswith(("teacher=", "data.")) for s in changes)
        # exit statuses that come back at every start end the job set; the others restart it
        (rule,) = job["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob" and rule["onExitCodes"] == {
            "containerName": container["name"], "operator": "In", "values": [1, 2],
        }  # fmt: skip
        assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy wants
        (ends,) = jobset["spec"]["failurePolicy"]["rules"]
        assert ends["action"] == "FailJobSet"
        assert ends["onJobFailureReasons"] == ["PodFailurePolicy"]
        assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
        out = dict(s.split("=") for group in options.settings for s in group)["loop.out"]
        assert any(out.startswith(m["mountPath"]) for m in container["volumeMounts"])


def test_launch_script(tmp_path):
    text = (PODS / "launch_gpus.sh").read_text()
    assert subprocess.run(["bash", "-n", str(PODS / "launch_gpus.sh")]).returncode == 0
    assert "JAX_COORDINATOR_ADDRESS" in text and "streamzoo.train --distributed" in text
    alone = subprocess.run(["bash", str(PODS / "launch_gpus.sh")], capture_output=True, text=True)
    assert alone.returncode == 2 and "usage" in alone.stderr
