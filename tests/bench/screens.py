"""Screens, drawn: what a camera, or a shared screen, shows where no person is.

    frames = list(screens(seconds=60, rate=5))       # uint8 [360, 640, 3] each

Source code that is scrolled, a terminal that fills up, a chart that grows, slides, in turns of ten
seconds, in a light and a dark scheme. The text is this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[2]
SIZE, TURN = (360, 640), 10
SCHEMES = ((250, 250, 248), (30, 32, 40)), ((24, 26, 32), (220, 222, 228))  # paper, ink
COLOURS = (212, 17, 89), (26, 133, 255), (0, 158, 115), (196, 154, 0)


def _text(page: Any, lines: list[str], ink: tuple, first: int, size: int = 13) -> None:
    font: Any = ImageFont.load_default(size=size)
    for row, line in enumerate(lines[first : first + SIZE[0] // (size + 4)]):
        colour = COLOURS[len(line) % 4] if line.lstrip()[:4] in ("def ", "clas", "from") else ink
        page.text((12, 8 + row * (size + 4)), line[:92], fill=colour, font=font)


def _code(page: Any, ink: tuple, at: float, lines: list[str]) -> None:
    _text(page, lines, ink, int(at * 60))


def _terminal(page: Any, ink: tuple, at: float, lines: list[str]) -> None:
    _text(page, lines[: 1 + int(at * 20)], ink, 0, 14)


def _chart(page: Any, ink: tuple, at: float, lines: list[str]) -> None:
    del lines
    x = np.arange(2 + int(at * 560))
    for k, colour in enumerate(COLOURS):
        y = 190 - 90 * np.sin(x / (40 + 13 * k) + k) * np.exp(-x / 900)
        page.line([(40 + float(a), float(b)) for a, b in zip(x, y, strict=True)], colour, 2)
    page.line([(40, 20), (40, 330), (610, 330)], ink, 1)


def _slide(page: Any, ink: tuple, at: float, lines: list[str]) -> None:
    number = int(at * 3)
    big: Any = ImageFont.load_default(size=30)
    page.text((40, 40), lines[number][:36] or "streamzoo", fill=ink, font=big)
    for row in range(3):
        page.ellipse((44, 126 + 60 * row, 54, 136 + 60 * row), fill=COLOURS[(number + row) % 4])
        page.text((70, 120 + 60 * row), lines[3 + 5 * number + row][:60], fill=ink)


def screens(seconds: float, rate: float) -> Iterator[np.ndarray]:
    """Frames uint8 [360, 640, 3]."""
    code = (ROOT / "streaming" / "session.py").read_text().splitlines()
    prose = [line for line in (ROOT / "README.md").read_text().splitlines() if line]
    kinds = (_code, code), (_terminal, prose), (_chart, prose), (_slide, prose)
    for k in range(round(seconds * rate)):
        turn, at = divmod(k / rate, TURN)
        draw, lines = kinds[int(turn) % len(kinds)]
        paper, ink = SCHEMES[int(turn) // len(kinds) % 2]
        picture = Image.new("RGB", (SIZE[1], SIZE[0]), paper)
        draw(ImageDraw.Draw(picture), ink, at / TURN, lines)
        yield np.asarray(picture)
