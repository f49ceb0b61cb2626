"""RADIO's heads: what is read from a file; parity is tests/parity/rows_encode.py."""

import numpy as np
import pytest

from streamzoo.zoo import create_model
from streamzoo.zoo.convert import CONVERTERS, ConvertError, converter_for, detect_converter
from streamzoo.zoo.encode import AdaptedConfig, TeacherHeadConfig
from streamzoo.zoo.encode.vit import ImageViTConfig

BODY, HEAD = "radio_model.model.", "radio_model.adaptors.clip."
ZERO = np.float32(0)


def checkpoint(heads=True):
    """Shapes alone, at no cost of memory."""
    shapes = {
        BODY + "patch_generator.embedder.weight": (64, 768),
        BODY + "patch_generator.pos_embed": (1, 16, 64),
        BODY + "patch_generator.cls_token.token": (8, 64),
        BODY + "blocks.1.mlp.fc1.weight": (256, 64),
        BODY + "blocks.0.mlp.fc1.weight": (256, 64),
    }
    for part in ("head_mlp", "feat_mlp") if heads else ():
        shapes |= {f"{HEAD}{part}.{k}": (16, 16) for k in ("fc1.weight", "final.2.weight")}
    return {key: np.broadcast_to(ZERO, shape) for key, shape in shapes.items()}


def plan(tensors, **config):
    return CONVERTERS["radio-adapted"].plan(tensors, {"num_attention_heads": 4} | config)


def test_the_file_tells_the_heads():
    told = {"clip": {"head_idx": 1, "feature": {"upsample_factor": 2}}}
    made = plan(checkpoint(), adaptor_configs=told)
    config = create_model(made.model, **made.overrides).config
    assert config.heads == (TeacherHeadConfig("clip", 1, (16, 0, 16), (16, 0, 16), 2),)
    assert config.image.depth == 2 and config.image.heads == 4
    assert converter_for("radio-adapted-h16") == "radio-adapted"
    # unasked, the same file is the encoder alone
    assert detect_converter(checkpoint()).name == "radio-transformers"


def test_heads_that_cannot_be_read():
    with pytest.raises(ConvertError, match="has no heads"):
        plan(checkpoint(heads=False))
    with pytest.raises(ConvertError, match="heads clip: put config.json.*head_idx"):
        plan(checkpoint())
    other = checkpoint()
    del other[HEAD + "feat_mlp.final.2.weight"]
    with pytest.raises(ConvertError, match="kind v2: checkpoint without.*feat_mlp.final"):
        plan(other, adaptor_configs={"clip": {"head_idx": 0}})


@pytest.mark.parametrize(
    "heads, words",
    [
        ((TeacherHeadConfig("a"), TeacherHeadConfig("a")), "its own name"),
        ((TeacherHeadConfig("backbone"),), "backbone"),
        ((TeacherHeadConfig("a", token=1),), "class token 1 of 1"),
    ],
)
def test_heads_that_cannot_be(heads, words):
    with pytest.raises(ValueError, match=words):
        AdaptedConfig(ImageViTConfig(), heads)
    with pytest.raises(ValueError, match=r"not 2\^2 cells"):
        TeacherHeadConfig("a", spatial=(8, 0, 6), upsample=2)
