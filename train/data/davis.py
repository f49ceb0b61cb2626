"""DAVIS sequences: frames with object masks, from a zip or tar as published, or a folder.

Layout: ``JPEGImages/<size>/<sequence>/00000.jpg`` and ``Annotations/<size>/<sequence>/00000.png``,
maybe below further folders. A mask's pixel above 0 is the object (DAVIS 2016, 0 and 255), or its
number (2017).

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation" (CVPR 2016); Pont-Tuset et al., "The 2017 DAVIS Challenge" (arXiv 1704.00675).
"""

from __future__ import annotations

import functools
import io
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from .base import DataError, files_below, need


class MaskClip(NamedTuple):
    """Consecutive frames of one sequence."""

    frames: np.ndarray  # [T, H, W, 3] uint8 RGB
    masks: np.ndarray  # [T, H, W] uint8, the object's number, 0 for background


def split(videos: Sequence[str], every: int = 4) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(to learn from, held out): every n-th sequence by name is held out."""
    names = sorted(videos)
    held = names[every - 1 :: every]
    return tuple(n for n in names if n not in held), tuple(held)


class Davis:
    """Sequences by number, decoded when first read and kept.

    Attributes:
      videos: names of the sequences, sorted.

    Args:
      path: the archive, or a folder with ``JPEGImages`` and ``Annotations``.
      sequences: names to use, () for all.
      size: (height, width) the frames are resized to (bilinear; masks: nearest); None: as they are.

    Raises:
      DataError: no such file or no such archive, no sequences in it, an unknown name, or frames
        without masks.
    """

    def __init__(
        self,
        path: str | Path,
        sequences: Sequence[str] = (),
        *,
        size: tuple[int, int] | None = None,
    ):
        self.path = need(path, "DAVIS", "give the archive, or the folder that holds JPEGImages")
        self.size = size
        names = self._names()
        pictures: dict[str, list[str]] = {}
        for name in names:
            parts = PurePosixPath(name).parts
            if "JPEGImages" in parts[:-1] and name.lower().endswith((".jpg", ".jpeg")):
                pictures.setdefault(parts[-2], []).append(name)
        if not pictures:
            raise DataError(f"{path}: no JPEGImages/<size>/<sequence>/*.jpg in it")
        if unknown := sorted(set(sequences) - set(pictures)):
            raise DataError(
                f"{path}: no sequence {unknown[0]!r}; there are {', '.join(sorted(pictures))}"
            )
        self.videos = tuple(sorted(sequences or pictures))
        self._pairs = [_pairs(path, sorted(pictures[v]), set(names)) for v in self.videos]
        self._whole = functools.lru_cache(maxsize=None)(self._decode)

    def __len__(self) -> int:
        return len(self.videos)

    def length(self, video: int) -> int:
        """Frames of a sequence."""
        return len(self._pairs[video])

    def read(
        self, video: int, start: int = 0, count: int | None = None, stride: int = 1
    ) -> MaskClip:
        """``count`` frames from ``start`` on, every ``stride``-th; None: to the end.

        Raises DataError for a picture that cannot be read, or a mask of another size.
        """
        clip = self._whole(video)
        pick = slice(start, None if count is None else start + count * stride, stride)
        return MaskClip(clip.frames[pick], clip.masks[pick])

    # --- files -------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        if self.path.is_dir():
            return [p.relative_to(self.path).as_posix() for p in files_below(self.path)]
        try:
            if zipfile.is_zipfile(self.path):
                with zipfile.ZipFile(self.path) as archive:
                    return archive.namelist()
            with tarfile.open(self.path) as archive:
                return archive.getnames()
        except (tarfile.TarError, zipfile.BadZipFile, EOFError):
            raise DataError(
                f"{self.path} is no folder, zip or tar (or half of one); copy it again"
            ) from None

    def _files(self, names: Iterable[str]) -> list[bytes]:
        if self.path.is_dir():
            return [(self.path / name).read_bytes() for name in names]
        if zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                return [archive.read(name) for name in names]
        with tarfile.open(self.path) as archive:
            return [_member(archive, name) for name in names]

    def _decode(self, video: int) -> MaskClip:
        names = [name for pair in self._pairs[video] for name in pair]
        try:
            files = self._files(names)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(
                f"{self.path}: {self.videos[video]} cannot be read ({error}); copy it again"
            ) from None
        images = [
            self._image(n, f, i % 2 == 1)
            for i, (n, f) in enumerate(zip(names, files, strict=False))
        ]
        shapes = {image.shape[:2] for image in images}
        if len(shapes) > 1:
            raise DataError(
                f"{self.path}: frames and masks of {self.videos[video]} are of sizes"
                f" {sorted(shapes)}; give size=(height, width)"
            )
        return MaskClip(np.stack(images[::2]), np.stack(images[1::2]))

    def _image(self, name: str, data: bytes, mask: bool) -> np.ndarray:
        from PIL import Image

        how = Image.Resampling.NEAREST if mask else Image.Resampling.BILINEAR
        try:
            image = Image.open(io.BytesIO(data))
            if not mask or image.mode not in ("P", "L"):
                image = image.convert("L" if mask else "RGB")
            if self.size is not None:
                height, width = self.size
                image = image.resize((width, height), how)
            array = np.asarray(image)
        except OSError as error:
            raise DataError(f"{self.path}: {name} is no picture ({error})") from None
        if not mask:
            return array
        numbered = image.mode == "P" or array.max() < 128
        return array.astype(np.uint8) if numbered else (array > 127).astype(np.uint8)


def _pairs(path: str | Path, pictures: list[str], names: set[str]) -> list[tuple[str, str]]:
    pairs = []
    for picture in pictures:
        stem = picture.rpartition(".")[0]
        mask = stem.replace("JPEGImages", "Annotations") + ".png"
        if mask not in names:
            raise DataError(f"{path}: {picture} has no mask at {mask}")
        pairs.append((picture, mask))
    return pairs


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # a name with an ending is a file
    return file.read()
