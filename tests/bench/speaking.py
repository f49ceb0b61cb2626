"""Tokens a second of SmolLM2-135M on this processor, beside transformers with the same weights.

    python -m tests.bench.speaking [--prompt 128] [--tokens 64] [--runs 3] [--out FILE]

Both read a prompt and say the most likely tokens, of which the first are compared; each in float32
and bfloat16, ours with kernels of 8 bits too, with a cache of its own, on the same number of
threads, each side in a process of its own, as threads of one that wait would take the other's
cores. They take turns and the median counts. Needs torch and transformers beside the extra
`language`. Speeds mean something on a quiet machine alone, so nothing is written without --out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import streamzoo
from streamzoo.layers.codec.box import SCHEMES
from streamzoo.zoo.compress import compress
from streamzoo.zoo.gguf import read_gguf
from streamzoo.zoo.packages import installed
from streamzoo.zoo.registry import model_card
from streamzoo.zoo.text import Decoder, Speaker, Tokenizer
from streamzoo.zoo.text.decoder.convert import from_gguf

from ..parity.shim import mend_torchvision

NAME = "smollm2-135m/instruct"
TEXT = "A camera watches a street from above. People come and go, and cars stop at the crossing. "
Row = tuple[list[int], float, float]  # tokens, seconds to read, seconds to say
Run = Callable[[list[int], int], Row]


def ours(file: Path, dtype: str, context: int) -> Run:
    """ids, count -> (tokens, seconds to read, seconds to say)."""
    model: Any
    if dtype in SCHEMES:  # products in float32
        model, params, _ = compress(NAME, dtype, context=context)
    else:
        model, params = streamzoo.load(NAME, context=context, dtype=dtype)
    assert isinstance(model, Decoder)
    speaker = Speaker(model, params, Tokenizer.read(file))

    def run(ids: list[int], count: int):
        start = time.perf_counter()
        state = speaker.read(speaker.begin(), ids)
        np.asarray(state.logits)
        read = time.perf_counter()
        said = [token for token, _ in speaker.answer(state, count)]
        return said, read - start, time.perf_counter() - read

    return run


def theirs(file: Path, dtype: str) -> Run:
    import torch

    mend_torchvision()  # which transformers imports
    from transformers import LlamaConfig, LlamaForCausalLM

    tensors, told = read_gguf(file)
    named, config = from_gguf(tensors, told)
    weights = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in named.items()}
    shape = weights["model.embed_tokens.weight"].shape
    hidden = weights["model.layers.0.mlp.up_proj.weight"].shape[0]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape[0], hidden_size=shape[1], intermediate_size=hidden,
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
            rms_norm_eps=config["rms_norm_eps"], tie_word_embeddings=True,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        )
    )  # fmt: skip
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
    model.tie_weights()
    model = model.to(getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def run(ids: list[int], count: int):
        start = time.perf_counter()
        out: Any = model(torch.tensor([ids]), use_cache=True)
        token = int(out.logits[0, -1].argmax())
        read, said = time.perf_counter(), []
        for _ in range(count):  # as ours: every token that is said is read
            said.append(token)
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values)
            token = int(out.logits[0, -1].argmax())
        return said, read - start, time.perf_counter() - read

    return run


def measured(options: argparse.Namespace, side: str) -> dict[str, Row]:
    """Of one side, in this process."""
    file = installed(model_card(NAME).source)
    words = Tokenizer.read(file).tokens(TEXT * (1 + options.prompt // 16))
    ids, found = words[: options.prompt], {}
    for dtype in options.dtypes:
        if side == "streamzoo":
            run = ours(file, dtype, options.prompt + options.tokens + 64)
        elif dtype not in SCHEMES:
            run = theirs(file, dtype)
        else:
            continue
        run(ids, options.tokens)  # the first compiles
        rows = [run(ids, options.tokens) for _ in range(options.runs)]
        read, spoke = np.median(np.asarray([row[1:] for row in rows]), axis=0)
        found[f"{side} {dtype}"] = rows[-1][0], float(read), float(spoke)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3, help="of each, in each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    turns: dict[str, list[Row]] = {}
    spawn = multiprocessing.get_context("spawn")
    for _ in range(options.turns):
        for side in ("streamzoo", "transformers"):
            with spawn.Pool(1) as pool:
                for name, row in pool.apply(measured, (options, side)).items():
                    turns.setdefault(name, []).append(row)
    lines = [
        "| | first token, ms | tokens/s | same tokens as transformers float32 |",
        "|---|---|---|---|",
    ]
    said = {name: rows[0][0] for name, rows in turns.items()}
    want = said.get("transformers float32", next(iter(said.values())))
    speed = {}
    for name, rows in turns.items():
        read, spoke = np.median(np.asarray([row[1:] for row in rows]), axis=0)
        count = len(said[name])
        speed[name] = count / spoke
        same = next(
            (i for i, (a, b) in enumerate(zip(said[name], want, strict=False)) if a != b), count
        )
        lines.append(f"| {name} | {1e3 * read:.0f} | {speed[name]:.1f} | first {same} of {count} |")
    own = max(v for k, v in speed.items() if k.startswith("streamzoo"))
    other = max(v for k, v in speed.items() if k.startswith("transformers"))
    lines += ["", f"Best of each: {own / other:.2f}x transformers, {jnp.zeros(1).device}."]
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(["# SmolLM2-135M speaks", "", *lines]) + "\n")


if __name__ == "__main__":
    main()
