"""Writes ``data/radio_heads.npz``: what RADIO's heads to its teachers answer.

    git clone https://github.com/NVlabs/RADIO
    python -m tests.parity.golden_radio RADIO

The body is transformers' RadioModel, the heads are the repository's; weights of a seed for both.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

from .golden import draw, write
from .harness import images, mend_torchvision
from .rows_encode import HEADS, RADIO, radio

FIXED = ("norm_mean", "norm_std", "summary_idxs")  # not weights
SPECIAL = {r".*(pos_embed|cls_token\.token)": (0.0, 0.5), r".*lambda1": (1.0, 0.2)}


def import_mlp(checkout: str) -> Any:
    """The class of the heads; the packages that it only names are not needed."""
    for name in ("einops", "radio", "radio.enable_spectral_reparam", "radio.adaptor_base"):
        sys.modules.setdefault(name, types.ModuleType(name))
    import torch

    def rearrange(x, pattern, h, w, u1, u2, c):
        assert pattern == "b (h w) (u1 u2 c) -> b (h u1 w u2) c"
        return torch.einsum("bhwxyc->bhxwyc", x.reshape(-1, h, w, u1, u2, c)).reshape(len(x), -1, c)

    class Base(torch.nn.Module):
        def __init__(self, **flags):
            super().__init__()

    names: Any = sys.modules
    names["einops"].rearrange = rearrange
    names["radio.enable_spectral_reparam"].disable_spectral_reparam = None
    names["radio.enable_spectral_reparam"].enable_spectral_reparam = None
    names["radio.adaptor_base"].AdaptorModuleBase = Base
    spec: Any = importlib.util.spec_from_file_location(
        "radio.adaptor_mlp", Path(checkout) / "radio" / "adaptor_mlp.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MLP2


def main(checkout: str) -> None:
    import torch
    from safetensors.numpy import load_file, save_file

    mend_torchvision()
    from transformers import RadioConfig, RadioModel

    config = RadioConfig(**RADIO)
    config._attn_implementation = "eager"
    with tempfile.TemporaryDirectory() as folder:
        RadioModel(config).save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        stored = load_file(file)
        shapes = {k: list(v.shape) for k, v in stored.items() if not k.endswith(FIXED)}
        save_file({**stored, **draw(shapes, SPECIAL)}, file, metadata={"format": "pt"})
        body = RadioModel.from_pretrained(folder, attn_implementation="eager").eval()
    frames = images(48, 64)
    mlp = import_mlp(checkout)
    with torch.no_grad():
        own = radio(body, frames)
        tokens, patches = own.last_hidden_state[:, :3], own.last_hidden_state[:, 8:]
        answers: dict[str, Any] = {"backbone features": patches.reshape(2, 3, 4, -1)}
        answers["backbone pooled"] = own.pooler_output
        for name, head in HEADS.items():
            for part, key in (("summary", "head_mlp"), ("feature", "feat_mlp")):
                up = head["feature"].get("upsample_factor", 1) if part == "feature" else 1
                made = mlp(**{"upsample_factor": up} | head[part])
                prefix = f"radio_model.adaptors.{name}.{key}."
                # what is drawn hangs on the whole name
                keys = {k: prefix + k for k in made.state_dict()}
                mine = {v: list(made.state_dict()[k].shape) for k, v in keys.items()}
                drawn = draw(mine, SPECIAL)
                made.load_state_dict({k: torch.from_numpy(drawn[v]) for k, v in keys.items()})
                shapes |= mine
                if part == "summary":
                    answers[f"{name} pooled"] = made(tokens[:, head["head_idx"]])
                else:
                    y = made(patches, images=torch.zeros(1, 3, 48, 64), patch_size=16)
                    answers[f"{name} features"] = y.reshape(2, 3 * up, 4 * up, -1)
    for name, value in answers.items():
        print(name, tuple(value.shape), float(np.asarray(value).std()))
    write("radio_heads", shapes, answers)


if __name__ == "__main__":
    main(sys.argv[1])
