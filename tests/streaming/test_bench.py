"""`streamzoo bench`: its figures are of the model it names, and its FLOPs are those on paper."""

import jax
import pytest

from streamzoo.streaming.bench import measure, table
from streamzoo.zoo.weights import shapes_of

SIDE, PATCH, DIM, DEPTH, CLASSES = 64, 16, 48, 3, 5
SHAPE = dict(image_size=(SIDE, SIDE), dim=DIM, depth=DEPTH, num_classes=CLASSES)
STUDENT = dict(**SHAPE, heads_per_block=2, heads=("frame",))
WINDOW = 4
TEACHER = dict(**SHAPE, heads=2, head="frame", frames=WINDOW)
CONFIG = {"tsa-ti16": STUDENT, "videomae-window-ti16": TEACHER}
BATCHES = (1, 2)


def products(tokens, inputs):
    """GFLOPs of a ViT's matrix products: two operations per multiply and add."""
    embed = tokens * inputs * DIM
    dense = tokens * 12 * DIM**2  # qkv 3, out 1, MLP 4 + 4
    attention = 2 * tokens**2 * DIM  # q k' and rows v
    return 2 * (embed + DEPTH * (dense + attention) + DIM * CLASSES) / 1e9


@pytest.fixture(scope="module")
def rows():
    said = []
    rows = measure(
        ["tsa-ti16"],
        BATCHES,
        teacher="videomae-window-ti16",
        config=CONFIG,
        repeats=3,
        warm=1,
        progress=said.append,
    )
    assert any("round 3 of 3" in line for line in said)
    return rows


def test_a_row_per_model_and_batch(rows):
    assert [(r.batch, r.model) for r in rows] == [(b, name) for b in BATCHES for name in CONFIG]
    for r in rows:
        assert 0 < r.ms_per_step <= r.ms_p90 and r.compile_s > 0
        assert r.frames_per_s == pytest.approx(1e3 * r.batch / r.ms_per_step)


def test_the_ratio_is_teacher_over_model_at_the_same_batch(rows):
    for student, teacher in zip(rows[::2], rows[1::2], strict=True):
        assert teacher.ratio == 1
        assert student.ratio == pytest.approx(teacher.ms_per_step / student.ms_per_step)


def test_flops_are_those_on_paper(rows):
    grid = (SIDE // PATCH) ** 2
    paper = {
        "tsa-ti16": products(grid, PATCH**2 * 3),
        "videomae-window-ti16": products(grid * 2, 2 * PATCH**2 * 3),  # two tubelets of two frames
    }
    for r in rows:
        # Norms, softmax, GELU and pixel arithmetic come on top of the products.
        assert paper[r.model] < r.gflops_per_frame < 1.2 * paper[r.model]


def test_carry_and_parameters_are_counted_per_stream(rows):
    student, teacher = rows[2:]  # batch 2
    grid = (SIDE // PATCH) ** 2
    assert student.carry_bytes == DEPTH * grid * (DIM // 8) * 4  # an eighth of the channels, fp32
    assert teacher.carry_bytes >= (WINDOW - 1) * SIDE * SIDE * 3 * 4
    weights = shapes_of("tsa-ti16", **STUDENT)
    assert student.params == sum(a.size for a in jax.tree.leaves(weights))


def test_the_table_has_every_row(rows):
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {11}
    for line, r in zip(lines[2:], rows, strict=True):
        assert r.model in line and f"| {r.batch} |" in line and f"{r.ratio:.1f}x" in line


def test_what_cannot_be_measured_is_said():
    with pytest.raises(ValueError, match="videomae-ti16 is offline.*videomae-window-ti16"):
        measure(["videomae-ti16"])
    with pytest.raises(ValueError, match="not measured: tsa-s16"):
        measure(["tsa-ti16"], config={"tsa-s16": {}})
