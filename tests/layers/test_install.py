"""One place says how streamzoo is installed."""

import re
import tomllib
from pathlib import Path

from streamzoo.layers.install import how_to_install

ROOT = Path(__file__).parents[2]
SHOWN = {".py", ".md", ".ipynb", ".js", ".html", ".yaml", ".sh"}
CODE = (".py", ".js", ".html")
# Its text is part of the key of the persons that it found: with its next change this advice goes.
# The settings of data sets say it in the right words before it is reached.
KEPT = "train/data/yolox.py"


def advised():
    """(file, what stands behind `pip install`) of all that a reader or a user may see."""
    rooms = ("layers", "zoo", "train", "streaming", "configs", "notebooks")
    paths = [*ROOT.glob("*.md"), *(p for room in rooms for p in (ROOT / room).rglob("*"))]
    for path in paths:
        if path.suffix in SHOWN:
            for words in re.findall(r"(?:pip install|uv add) (.*)", path.read_text("utf-8")):
                yield path.relative_to(ROOT).as_posix(), words


def test_nothing_advises_a_name_that_is_on_no_index():
    name = re.compile(r"\bstreamzoo\b(?!\\?'s)")  # not "in the folder of streamzoo's source"
    found = [file for file, words in advised() if name.search(words)]
    assert found == [KEPT], "say it with layers.install.how_to_install"


def test_no_module_spells_the_advice_itself():
    spelt = {file for file, words in advised() if file.endswith(CODE) and "[" in words}
    assert spelt == {"layers/install.py", KEPT}


def test_every_extra_that_is_advised_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {e for _, words in advised() for e in re.findall(r"\.\[([\w,]+)\]", words)}
    for path in (p for room in ("zoo", "train", "streaming") for p in (ROOT / room).rglob("*.py")):
        asked |= {*re.findall(r"how_to_install\(['\"](\w+)", path.read_text())}
    extras = {extra for some in asked for extra in some.split(",")}
    assert "demo" in extras and extras <= {*project["optional-dependencies"]}


def test_it_names_the_extras_and_the_place():
    assert how_to_install("serve", "webrtc").startswith('pip install -e ".[serve,webrtc]" in ')
