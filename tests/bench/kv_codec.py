"""Keys and values on fewer bits: what attention loses, what a language model loses, how many bytes.

    python -m tests.bench.kv_codec          # writes results/kv_codec.{md,json}

Two places. (1) ``WindowAttention`` of ``swa-lite0`` alone, 192 frames of random features with
channels of unequal size (as KIVI finds them in keys): its own rings, in the forms that a model may
choose. (2) ``smollm2-135m/instruct`` on prose of this repository: the memory of the first 256
tokens goes through the codec, and the next 64 tokens are predicted from it; new tokens stay floats,
as the block that is not full yet does in the ring.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo import zoo
from streamzoo.layers.codec import kivi
from streamzoo.layers.kernels.ring_attention.ring import dequantise, quantise
from streamzoo.layers.window import WindowAttention

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).parent / "results" / "kv_codec"
RINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "8 bits per token": {"bits": 8},
    "4 bits per token": {"bits": 4},
    **{f"{b} bits, keys per channel": {"bits": b, "block": 32} for b in (8, 4, 2)},
}
NAME, BEFORE, AFTER = "smollm2-135m/instruct", 256, 64


def window(frames: int = 192, tokens: int = 16, dim: int = 128) -> list[dict[str, Any]]:
    """Of every ring: error of the mixer's output, bytes of its carry."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, frames, tokens, dim)).astype(np.float32)
    make = lambda **how: WindowAttention(dim, window=128, sinks=2, **how)
    carry = make().init_carry(1, tokens)
    variables = jax.jit(make().init)(jax.random.key(0), carry, x[:, :1])
    kernel = np.array(variables["params"]["qkv"]["kernel"])
    kernel[:, dim : 2 * dim] *= np.exp(rng.normal(size=dim)).astype(np.float32)  # of the keys
    variables = jax.tree.map(lambda a: a, variables)
    variables["params"]["qkv"]["kernel"] = jnp.asarray(kernel)
    rows, exact = [], None
    for name, how in RINGS.items():
        mixer = make(**how)
        carry, outs = mixer.init_carry(1, tokens), []
        step = jax.jit(mixer.apply)
        for t in range(frames):
            carry, y = step(variables, carry, x[:, t : t + 1])
            outs.append(np.asarray(y))
        found = np.concatenate(outs, axis=1)[:, 130:]  # with a window that is full
        exact = found if exact is None else exact
        size = sum(a.nbytes for a in jax.tree.leaves(carry))
        rows.append({"ring": name, "error": relative(found, exact), "bytes": size})
        print(rows[-1], flush=True)
    return rows


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of the difference, in that of ``b``."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def per_token(bits: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The ring's own form, one scale for each head (two of 4 bits)."""

    def code(keys: Any, values: Any) -> tuple[Any, Any]:
        def both(a: Any) -> Any:  # [T, G, D]
            flat = a.reshape(len(a), 1, -1)
            codes, scale = quantise(flat, a.shape[1], bits)
            return dequantise(codes, scale, a.shape[1]).reshape(a.shape)

        return both(keys), both(values)

    return code


def per_channel(bits: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """KIVI's: keys per channel over 32 tokens, values per token over 32 channels."""

    def code(keys: Any, values: Any) -> tuple[Any, Any]:
        flat = lambda a: a.reshape(len(a), -1)
        k = kivi.dequantise_keys(kivi.quantise_keys(flat(keys), bits), bits)
        v = kivi.dequantise_values(kivi.quantise_values(flat(values), bits), bits)
        return k.reshape(keys.shape), v.reshape(values.shape)

    return code


CODECS: dict[str, tuple[Any, float]] = {  # codec, bits of an element with its scales
    "float32": (None, 32.0),
    "8 bits per token": (per_token(8), 8 + 32 / 64),
    "4 bits per token": (per_token(4), 4 + 32 / 32),
    "8 bits, keys per channel": (per_channel(8), 8 + 64 / 32),
    "4 bits, keys per channel": (per_channel(4), 4 + 64 / 32),
    "2 bits, keys per channel": (per_channel(2), 2 + 64 / 32),
}


def language() -> list[dict[str, Any]]:
    """Of every codec: errors of keys and values, perplexity of what follows, agreement."""
    from streamzoo.zoo.packages import installed
    from streamzoo.zoo.text.tokenizer import Tokenizer

    model, params, card = zoo.resolve(NAME, context=BEFORE + AFTER)
    tokenizer = Tokenizer.read(installed(card.source))
    text = (ROOT / "README.md").read_text().split("## Where to go next")[0]
    tokens = np.asarray(tokenizer.words(text)[: BEFORE + AFTER + 1], np.int32)[None]
    assert tokens.shape[1] == BEFORE + AFTER + 1, "the text is too short"
    run = jax.jit(model.apply)
    carry, _ = run(params, model.init_carry(1), tokens[:, :BEFORE])
    rows, exact = [], None
    for name, (codec, bits) in CODECS.items():
        keys, values = carry.keys, carry.values  # [1, L, C, G, D]
        if codec is not None:
            one = jax.vmap(codec)
            k, v = one(keys[0, :, :BEFORE], values[0, :, :BEFORE])
            keys, values = keys.at[0, :, :BEFORE].set(k), values.at[0, :, :BEFORE].set(v)
        _, logits = run(params, carry.replace(keys=keys, values=values), tokens[:, BEFORE:-1])
        said = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)[0])
        exact = said if exact is None else exact
        next_ = tokens[0, BEFORE + 1 :]
        rows.append({
            "codec": name, "bits": bits,
            "keys": relative(np.asarray(keys), np.asarray(carry.keys)),
            "values": relative(np.asarray(values), np.asarray(carry.values)),
            "perplexity": float(np.exp(-np.mean(np.asarray(said)[np.arange(AFTER), next_]))),
            "same": float(np.mean(np.asarray(said.argmax(-1) == exact.argmax(-1)))),
            "bytes": int(bits / 8 * 2 * carry.keys[0, :, :BEFORE].size),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def page(found: dict[str, Any]) -> str:
    lines = [
        "# Keys and values on fewer bits", "",
        "`python -m tests.bench.kv_codec`. Errors are relative root mean squares.",
        "", "**Windowed attention**, 128 frames and 2 sinks of 16 tokens of width 128, keys whose",
        "channels are of unequal size, frame by frame; its output when the window is full.", "",
        "| ring | error of the output | carry, KB |", "|---|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {r['ring']} | {r['error']:.4f} | {r['bytes'] / 1e3:.0f} |" for r in found["window"]
    ]
    lines += [
        "", f"**{NAME}**: {BEFORE} tokens of memory through the codec, then {AFTER} tokens of the",
        "README predicted from it (weights of 4.5 bits, computed in float32).", "",
        "| codec | bits with scales | error of keys | of values | perplexity | same best token "
        "| memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for r in found["language"]:
        lines.append(
            f"| {r['codec']} | {r['bits']:g} | {r['keys']:.4f} | {r['values']:.4f} "
            f"| {r['perplexity']:.2f} | {100 * r['same']:.0f} % | {r['bytes'] / 1e6:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="results, without their suffix")
    options = parser.parse_args()
    found = {"window": window(), "language": language()}
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    main()
