"""Pages: links lead to files, mechanisms to symbols, and the README stays short."""

import ast
import inspect
import re
from pathlib import Path

import av
import numpy as np
import pytest

from streamzoo.streaming import views
from streamzoo.train import datasets
from streamzoo.zoo import registry

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(p.startswith(".") or p in ("tests", "build") for p in path.relative_to(ROOT).parts)
)
ROWS = re.findall(
    r"^\| ([^|]+) \| `([\w/.]+\.py)` \| `(\w+)` \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.M
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short_enough_to_finish():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_a_first_result_stands_within_forty_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("import streamzoo") < 45


@pytest.mark.parametrize("mechanism, path, symbol", ROWS, ids=[row[0] for row in ROWS])
def test_a_mechanism_is_where_the_page_says(mechanism, path, symbol):
    tree = ast.parse((ROOT / path).read_text())
    assert symbol in {getattr(node, "name", None) for node in tree.body}


def test_the_page_of_mechanisms_is_not_empty():
    assert len(ROWS) > 30


# What a page takes for granted, in the reader's own words: arrays, a model, a file.
GIVEN = {
    "README.md": """
        import jax.numpy as jnp
        frames = jnp.zeros((1, 2, 128, 160, 3))
    """,
    "CONTRIBUTING.md": "",
    "streaming/README.md": """
        import jax.numpy as jnp, numpy as np, streamzoo
        model, params = streamzoo.init_params("tsa-mi16", image_size=(96, 96))
        card = streamzoo.model_card("tsa-mi16")
        frame, image = np.zeros((240, 432, 3), np.uint8), np.zeros((96, 96, 3), np.uint8)
        frames = jnp.zeros((1, 16, 96, 96, 3))
        samples, recognise = np.zeros(16_000, np.float32), lambda sound: "words"
    """,
    "layers/README.md": """
        import flax.linen as nn, jax, jax.numpy as jnp
        class Fading(nn.Module):
            latency = 0
            def init_carry(self, batch): return jnp.zeros((batch, 3))
            def __call__(self, carry, x, valid=None):
                def step(past, now):
                    x, here = now
                    new = 0.5 * past + jnp.where(here[:, None], x, 0)
                    return jnp.where(here[:, None], new, past), jnp.where(here[:, None], new, 0)
                here = jnp.ones(x.shape[:2], bool) if valid is None else valid
                carry, y = jax.lax.scan(step, carry, (x.swapaxes(0, 1), here.swapaxes(0, 1)))
                return carry, y.swapaxes(0, 1)
        module, variables = Fading(), {}
        def make_input(seed, batch, steps):
            return jax.random.normal(jax.random.key(seed), (batch, steps, 3))
    """,
    "layers/kernels/README.md": """
        import jax, jax.numpy as jnp
        q, k, v = (jax.random.normal(jax.random.key(i), (1, 8, 2, 16)) for i in range(3))
        g, beta = -jnp.ones((1, 8, 2)), jnp.full((1, 8, 2), 0.5)
        state = jnp.zeros((1, 2, 16, 16))
    """,
    "zoo/README.md": """
        import jax.numpy as jnp, streamzoo
        tiny = dict(image_size=(28, 28), dim=32, heads=2, depth=1)
        encoder, params = streamzoo.init_params("dinov2-s14", **tiny)
        frames = jnp.zeros((1, 2, 28, 28, 3))
    """,
    "train/README.md": "",
}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def street(path):
    """A film of a few grey frames."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        for shade in (60, 90, 120):
            frame = av.VideoFrame.from_ndarray(np.full((128, 160, 3), shade, np.uint8))
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


RUN = [  # the newcomer's page is always run
    pytest.param(n, marks=[pytest.mark.slow] * (n != "README.md"))
    for n in GIVEN
    if blocks(ROOT / n)
]


@pytest.mark.parametrize("name", RUN)
def test_the_python_of_a_page_runs_as_printed(name, tmp_path, monkeypatch):
    """One namespace per page: a later block may use what an earlier one made."""
    monkeypatch.chdir(tmp_path)
    registry.import_names()  # into the real table, not into the one of this test
    monkeypatch.setattr(registry, "_ENTRIES", registry._ENTRIES.copy())
    monkeypatch.setattr(views, "VIEWS", views.VIEWS.copy())
    monkeypatch.setitem(datasets.DATA_SETS, "squares", "")  # what a page adds is gone afterwards
    street(tmp_path / "street.mp4")
    known = {"__name__": "page"}
    exec(inspect.cleandoc(GIVEN[name]), known)
    for block in blocks(ROOT / name):
        code = compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if "async with" not in block:  # a server would have to be there
            exec(code, known)


def test_every_page_with_python_is_run():
    found = {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)}
    assert found <= set(GIVEN)
