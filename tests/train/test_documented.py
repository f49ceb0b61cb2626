"""Every command that a page, a docstring or a help text names for training and data is walked.

The fast test reads all pages and checks that each command parses, names a config and settings that
exist, and stands in ``WALKED``. The slow ones run them, in the order in which the pages give them,
on small data in the published layouts, a step or two long.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from streamzoo.train import settings
from streamzoo.train.__main__ import main, parser

from . import test_clip_teacher, test_davis, test_egogestar, test_recipe, test_ucf11_source
from .video_files import write

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "train/README.md", "streaming/README.md", "zoo/README.md")
COMMAND = re.compile(r"python -m (streamzoo\.train[\w.]*)((?:[^`\n\\]|\\+\n\s*)*)")
SHORT = ["loop.steps=1", "loop.batch=2", "loop.log_every=1", "loop.tensorboard=false"]
SHORT += ["loop.checkpoint_every=0"]
SHALLOW = ["model.depth=1", "data.size=32,32", "test.size=32,32"]
# How a config is made small: its own data, drawn or written below, in the published layout.
SMALL = {
    "synth": ["data.videos=2", "test.videos=1", *SHALLOW],
    "ut": ["data.detector=", "test.detector=", *SHALLOW],
    "ucf11": ["data.detector=", "test.detector=", *SHALLOW],
    "folder": [*SHALLOW[:2], "data.detector=", "model.person=false", "distil.person=0"],
    "encoder": ["distil.measured=2", "distil.hidden=16", *SHALLOW],
    "live": ["variants=1", "test_variants=1", "scenes=2", "size=32,64"],
    "egogestar": ["data.sessions=A,", "test.sessions=B,", "data.copies=1", "supervise.windows=1"],
    "davis": ["size=32,32", "sequences=bear,", "held_out=car,"],
    "worlds": ["size=32,64", "worlds=2", "each=1", "held_out=1", "frames=2"],
    "films": ["films=2", "each=4", "held_out=1", "frames=2", "loop.frames=2"],
}
# config -> the data it wants. A new page or config has to be added here, and so be walked.
WALKED = {
    "smoke": "synth", "synth_teacher": "synth", "synth_student": "synth",
    "ut_teacher": "ut", "ut_student": "ut", "adapt_unlabelled": "ut",
    "ucf11_teacher": "ucf11", "ucf11_student": "ucf11", "folder_student": "folder",
    "encoder_proxy": "encoder", "encoder_student": "encoder", "encoder_pyramid": "encoder",
    "own_videos": "folder", "live_hrm": "live", "davis_tracker": "davis",
    "egogestar_teacher": "egogestar", "egogestar_student": "egogestar",
    "depth_worlds": "worlds", "geometry_worlds": "films",
    "moonshine_live": "",  # its teacher is large: test_hearing.py learns from a small one
    "ucf11_persons": "",  # of bundled weights, which are not small: test_finding.py runs it
}  # fmt: skip
TOOLS = {  # the tests that run the other commands of the training room
    "streamzoo.train.ship": "test_ship.py", "streamzoo.train.calibrate": "test_calibrate.py",
    "streamzoo.train.metrics": "test_ava_metrics.py",
    "streamzoo.train.stream_report": "test_stream_report.py",
    "streamzoo.train.data.synth_tfds": "test_synth_tfds.py",
    "streamzoo.train.balls": "test_balls.py",
    "streamzoo.train.person_actions": "test_person_actions.py",
    "streamzoo.train.connector": "test_connector.py",
    "streamzoo.train.sounding": "test_sounding.py", "streamzoo.train.low_rank": "test_low_rank.py",
}  # fmt: skip


def commands() -> list[tuple[str, str, list[str]]]:
    """(page, module, arguments) of every command on every page."""
    found = []
    configs, code = sorted(ROOT.glob("configs/*")), sorted((ROOT / "train").rglob("*.py"))
    for page in [*(ROOT / name for name in PAGES), *configs, *code]:
        if not page.is_file():
            continue
        for module, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
            rest = re.sub(r"\\+\n\s*", " ", rest)
            rest = re.split(r'\s{2,}[#%]|["\'),;]*\s+\.\.\.|; ', rest)[0]
            # in code the end of a string or of a sentence in a message is no part of it
            forms = (rest, rest.rstrip(')"'), rest.partition('"')[0])
            for text in forms if page in code else forms[:1]:
                with contextlib.suppress(ValueError):
                    found.append((page.relative_to(ROOT).as_posix(), module, words_of(text)))
                    break
            else:
                raise AssertionError(f"{page}: no shell reads {rest}")
    return found


def words_of(text: str) -> list[str]:
    """As a shell reads them. Raises ValueError: quotes that do not end."""
    return shlex.split(text, comments=True)


def test_every_command_is_known_parses_and_names_what_exists():
    seen = set()
    for page, module, words in commands():
        where = f"{page}: {module} {' '.join(words)}"
        if module != "streamzoo.train":
            assert importlib.util.find_spec(module) is not None, where
            assert module in TOOLS and (Path(__file__).parent / TOOLS[module]).is_file(), where
            continue
        given = parser().parse_args([w for w in words if w])
        if not given.config or "NAME" in given.config:
            continue
        name = Path(given.config).stem
        assert name in WALKED, f"{where}: add it to WALKED"
        seen.add(name)
        config = settings.load_config(given.config)  # a path of the page, or a name
        settings.override(config, [s for group in given.settings for s in group])
    assert seen == set(WALKED) == set(settings.shipped()), "each config's page has its command"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data in the layouts that their authors publish, and a folder to run in."""
    home = tmp_path_factory.mktemp("home")
    ut = home / "ut"
    for number, sequences in ((1, (1, 2, 3, 4)), (2, (11, 12, 13, 15))):
        for s in sequences:
            write(ut / f"set{number}" / f"{s}_{s}_{s % 2}.avi", frames=12)
    (ut / "classes.txt").write_text("0 hug\n1 push\n")
    names = [f"{split}/{c}/v_{w}_{g}_01" for split, g in (("train", "02"), ("test", "04"))
             for w, c in (("golf", "golf_swing"), ("biking", "biking"))]  # fmt: skip
    test_ucf11_source.archive(home / "ucf11.zip", names)
    test_davis.write(home / "davis", test_davis.files(frames=9))
    test_egogestar.lay_out(home / "egogestar")
    write(home / "videos" / "deep" / "one.mp4", frames=24)
    return home


def small(home: Path, name: str) -> list[str]:
    kind = WALKED[name]
    made = [*SHORT, *SMALL[kind], f"cache={home / 'cache'}"]
    if kind in ("ut", "ucf11", "encoder"):
        path = home / ("ut" if kind == "ut" else "ucf11.zip")
        made += [f"data.path={path}", f"test.path={path}"]
    if name == "ucf11_student":
        made += ["model.person=false", "distil.person=0"]
    if kind == "egogestar":
        made += [f"data.path={home / kind}", f"test.path={home / kind}"]
    if kind == "ut":
        made += ["data.frame_rate=5", "test.frame_rate=5"]
        if name != "adapt_unlabelled":
            made += ["data.sequences=(1,2,11)", "test.sequences=(3,12)"]
        else:
            made += ["data.sequences=(11,12,13)", "test.sequences=(15,)"]
    if kind in ("live", "davis"):  # no clips cut: a scene and a clip have their own lengths
        made = [m for m in made if not m.startswith("cache") or kind == "live"]
    else:
        made.append("loop.frames=1" if kind in ("encoder", "worlds") else "loop.frames=4")
        made += ["data.frame_rate=5"] * (kind == "folder")
    if kind == "davis":
        made += [f"path={home / 'davis'}", "loop.frames=2"]
    if kind == "folder":
        made += [f"data.path={home / 'videos'}", f"teacher={home / 'teacher.safetensors'}"]
        made.append("model.name=dsta-mi16")  # patches of 16, as that teacher
    if kind == "encoder":
        made.append("model.size=32,32")
        if name != "encoder_proxy":
            sizes = "((32,32),)" if name == "encoder_student" else "((32,32),(48,48))"
            made += [f"distil.student_sizes={sizes}", f"distil.teacher_sizes={sizes}"]
    return made


CHAINS = [  # configs that need one another's weights, in the order of their pages
    ("smoke",), ("synth_teacher", "synth_student"), ("ut_teacher", "ut_student"),
    ("ucf11_teacher", "ucf11_student"), ("folder_student",),
    ("ucf11_teacher", "encoder_proxy", "encoder_student", "encoder_pyramid"),
    ("ut_teacher", "ut_student", "adapt_unlabelled"),
    ("live_hrm",), ("davis_tracker",), ("depth_worlds",), ("geometry_worlds",),
    ("egogestar_teacher", "egogestar_student"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[-1])
def test_the_pages_commands_run(home, tmp_path, monkeypatch, chain):
    """Each command as it stands on its config's page, made small by further settings."""
    monkeypatch.chdir(tmp_path)
    test_recipe.saved_teacher(home / "teacher.safetensors")
    run = 0
    for page, module, words in commands():
        given = [Path(w).stem for w in words if w.startswith("configs/")]
        if page != f"configs/{chain[-1]}.py" or module != "streamzoo.train" or not given:
            continue
        if given[0] not in chain:
            continue
        assert main([*words, "--set", *small(home, given[0])]) == 0, words
        run += 1
    for name in chain if not run else ():
        assert main(["--config", f"configs/{name}.py", "--set", *small(home, name)]) == 0
    assert run


@pytest.mark.slow
def test_a_folder_learns_from_a_published_classifier(home, tmp_path, monkeypatch):
    """README: a published VideoMAE through convert, named as the teacher of one's own videos."""
    monkeypatch.chdir(tmp_path)
    teacher = test_clip_teacher.published(tmp_path / "t.safetensors", image_size=(32, 32))
    words = ["--config", "folder_student", "--set", *small(home, "folder_student")]
    assert main([*words, f"teacher={teacher}", "model.name=dsta-mi16", "loop.out=out"]) == 0
    from streamzoo import zoo

    model, _ = zoo.load(tmp_path / "out/weights.safetensors")
    assert model.config.num_classes == test_clip_teacher.CLASSES
    assert np.isfinite(np.asarray(model.config.image_size)).all()
