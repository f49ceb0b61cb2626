"""What configs of registered models tell, against what is known of the models."""

import pytest

from streamzoo.zoo import model_config
from streamzoo.zoo import traits as t

# name -> stem, patch, pixels of a cell, classes, class tokens, unrolled, looks for persons
KNOWN = {
    "dsta-s16": ("", 16, 16, 80, 0, {"unroll": 12}, True),
    "dsta-lite0/ut": ("efficientnet-lite0", 32, 32, 7, 0, {"unroll": 4}, False),
    "dinov2-s14": ("", 14, 14, None, 1, {"unroll": 12}, False),
    "efficientnet-lite0": ("", None, 32, 1000, 0, {}, False),
    "live-mi-lite0": ("efficientnet-lite0", None, 1, None, 0, {}, False),
    "yolox-nano": ("", None, 1, None, 0, {}, False),
}


@pytest.mark.parametrize("name", KNOWN)
def test_traits_of(name):
    config = model_config(name)
    found = (t.stem_of, t.patch_of, t.cell_of, t.classes_of, t.class_tokens_of, t.unrolled,
             t.finds_persons)  # fmt: skip
    assert tuple(ask(config) for ask in found) == KNOWN[name]
