"""How pictures lie: EXIF against Pillow, matrices against arithmetic, what hostile ones cost."""

import io
import time
from fractions import Fraction

import numpy as np
import pytest

from streamzoo.streaming.serve.limits import Limits, ServeError
from streamzoo.streaming.serve.pictures import Pictures
from streamzoo.streaming.serve.wire import JPEG, FrameMessage
from streamzoo.streaming.sources import PushSource, SourceError, open_source
from streamzoo.streaming.sources.jpeg import jpeg_size
from streamzoo.zoo.video import UPRIGHT, of_exif, of_matrix

from . import odd_files

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")


def marked(orientation, size=(60, 100), **options):
    """A JPEG file's bytes with an EXIF mark."""
    picture = np.zeros((*size, 3), np.uint8)
    picture[:, : size[1] // 2] = 255, 0, 0
    picture[: size[0] // 2, size[1] // 2 :] = 0, 255, 0
    image, data = Image.fromarray(picture), io.BytesIO()
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(data, "JPEG", exif=exif, quality=95, **options)
    return data.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_as_pillow_turns_it(tmp_path, orientation):
    data = marked(orientation)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    shape = want.size[::-1]
    found = {}
    pictures = Pictures(shape, Limits())
    found["sent to a server"] = pictures(FrameMessage(JPEG, 0, data))
    assert pictures.original_size == shape
    source = PushSource()
    source.push(data)
    found["pushed"] = frame = source.read(1)
    found["pushed"] = frame.image
    assert frame.original_size == source.original_size == shape
    (tmp_path / "x.jpg").write_bytes(data)
    with open_source(tmp_path / "x.jpg") as source:
        frame = source.read()
    assert frame.original_size == shape
    found["a file"] = frame.image
    for where, image in found.items():
        assert image.shape == (*shape, 3), where
        assert np.abs(image.astype(int) - np.asarray(want)).mean() < 5, where


def test_eight_matrices_and_those_that_are_none():
    image = np.arange(6).reshape(2, 3)[..., None]
    y, x = np.mgrid[:2, :3]
    for a, b, c, d in [
        (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
        (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
    ]:  # fmt: skip
        matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1]) * 65536
        u, v = a * x + c * y, b * x + d * y  # where each pixel goes
        u, v = u - u.min(), v - v.min()
        want = np.zeros((v.max() + 1, u.max() + 1, 1), int)
        want[v, u] = image
        np.testing.assert_array_equal(of_matrix(matrix)(image), want)
    assert of_matrix(np.zeros(9)) == UPRIGHT
    slant = np.array([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30])  # 45 degrees
    assert of_matrix(slant) == UPRIGHT


def test_exif_that_is_damaged_is_no_mark():
    data = marked(6)
    at = data.index(b"Exif")
    assert of_exif(data[: at + 20]) is None and of_exif(b"") is None
    for k in range(at, at + 40):
        of_exif(data[:k] + b"\xff\xff\xff\xff" + data[k + 4 :])


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\xff\xd8" + b"\xff" * (8 << 20), "without a size"),  # nothing but filling
        (b"\xff\xd8" + b"\xff\xfe\x00\x02" * (1 << 20), "without a size"),  # empty comments
        (b"\xff\xd8" + b"\xff\x01" * (1 << 20), "without a size"),
    ],
)
def test_the_work_for_a_pushed_picture_is_bounded(data, words):
    start = time.process_time()
    with pytest.raises(ValueError, match=words):
        jpeg_size(data)
    assert time.process_time() - start < 0.2


def test_a_few_bytes_do_not_ask_for_millions_of_pixels():
    data = marked(1)
    at = data.index(b"\xff\xc0") + 5
    huge = data[:at] + (2160).to_bytes(2, "big") + (3840).to_bytes(2, "big") + data[at + 4 :]
    with pytest.raises(ServeError, match="3840 x 2160 in .* bytes: cut off, or damaged"):
        Pictures((24, 24), Limits())(FrameMessage(JPEG, 0, huge))
    with pytest.raises(SourceError, match="cut off, or damaged"):
        PushSource().push(huge)
    scans = data[:-2] + b"\xff\xda\x00\x02" * 500 + data[-2:]
    with pytest.raises(ServeError, match="in 501 scans; up to 128 are taken"):
        Pictures((24, 24), Limits())(FrameMessage(JPEG, 0, scans))
    flat = io.BytesIO()  # the smallest that an encoder makes
    Image.new("RGB", (3840, 2160)).save(flat, "JPEG", quality=1, optimize=True, progressive=True)
    assert Pictures((24, 24), Limits())(FrameMessage(JPEG, 0, flat.getvalue())).shape == (24, 24, 3)


def test_pixels_that_are_not_square_in_the_written_video_and_the_prompts(tmp_path):
    """180 x 144 with pixels 64:45 wide is shown as 256 x 144."""
    from streamzoo.streaming.serve.dashboard import aspect

    path = odd_files.write(
        tmp_path / "wide.mp4", frames=2, size=(144, 180), aspect=Fraction(64, 45)
    )
    with open_source(path, size=(24, 24), keep_original=True) as source:
        frame = source.read()
    assert source.original_size == frame.original_size == (144, 256)
    assert frame.original.shape == (144, 256, 3) and frame.image.shape == (24, 24, 3)
    session = type("Session", (), {})()
    session.feed = type("Feed", (), {"source": source})()
    assert aspect(session) == pytest.approx(16 / 9, abs=0.01)  # a tile of the dashboard
    for damaged in (Fraction(1, 200), Fraction(200, 1)):
        path = odd_files.write(tmp_path / "damaged.mkv", frames=1, aspect=damaged)
        with open_source(path) as source:
            assert source.original_size == (48, 64)
