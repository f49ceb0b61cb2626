"""The step of a TSA or DSTA student written in PyTorch, as a torch user would.

Same shapes and same work as ``create_model("tsa-s16", heads=("frame",), num_classes=80)``: uint8
frame, normalise, patch embedding, blocks with a causal shift of 1/8 of the channels on the
residual stream, SDPA attention, MLP with the exact GELU, final norm, frame head, next carry. Of
``dsta-s16`` the memory is an LSTM per token behind the attention, its state in float32.

Every array of the carry is contiguous and stands alone: with views of other arrays the guards of
``torch.compile`` fail at every second step, until it gives up and runs eagerly. A step that would
compile again is an error here (``error_on_recompile``).
"""

from __future__ import annotations

import os

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class LSTM(nn.Module):
    """A state (h, c), each [B, N, D] in float32, per token."""

    def __init__(self, dim: int):
        super().__init__()
        self.input, self.recurrent = nn.Linear(dim, 4 * dim), nn.Linear(dim, 4 * dim, bias=False)

    def forward(self, past, x):
        h, c = past
        z = self.input(x).float() + self.recurrent(h.to(x.dtype)).float()
        i, f, g, o = z.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h.to(x.dtype)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float, memory: str):
        super().__init__()
        if memory == "lstm":
            self.norm_t, self.mixer = nn.LayerNorm(dim, eps), LSTM(dim)
        self.memory = memory
        self.heads, self.shifted = heads, dim // 8
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, past, x):
        """past [B, N, D / 8] or (h, c), x [B, N, D] -> (the next past, x)."""
        future: Any = None
        if self.memory == "shift":
            future = x[..., : self.shifted].contiguous()
            x = torch.cat([past, x[..., self.shifted :]], dim=-1)
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        if self.memory == "lstm":
            future, y = self.mixer(past, self.norm_t(x))
            x = x + y
        return future, x + self.down(F.gelu(self.up(self.norm2(x))))


class Student(nn.Module):
    """(carry: an array or a pair per block, uint8 frame [B, H, W, 3]) -> (carry, logits [B, C])."""

    def __init__(self, tokens, patch, dim, depth, heads, classes, eps, mean, std, memory="shift"):
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.embed = nn.Linear(patch * patch * 3, dim)
        self.pos = nn.Parameter(torch.zeros(tokens, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, eps, memory) for _ in range(depth))
        self.norm, self.head_norm = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.head = nn.Linear(dim, classes)

    def forward(self, carry, frame):
        batch, height, width, _ = frame.shape
        p, rows, cols = self.patch, height // self.patch, width // self.patch
        x = ((frame.float() / 255 - self.mean) / self.std).to(self.pos.dtype)
        x = x.view(batch, rows, p, cols, p, 3).transpose(2, 3)
        x = self.embed(x.reshape(batch, rows * cols, p * p * 3)) + self.pos
        after = []
        for block, past in zip(self.blocks, carry, strict=True):
            past, x = block(past, x)
            after.append(past)
        x = self.norm(x).mean(dim=1)
        return after, self.head(self.head_norm(x)).float()

    def load(self, flat: dict[str, np.ndarray]) -> None:
        """Takes our flat weights ("blocks/layer0/attn/qkv/kernel" [L, in, out], ...)."""

        def put(module, name, layer=None):
            for ours, theirs in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias")):
                if f"{name}/{ours}" in flat:
                    value = flat[f"{name}/{ours}"]
                    value = value if layer is None else value[layer]
                    value = value.T if ours == "kernel" else value
                    target = getattr(module, theirs)
                    assert target.shape == value.shape, (name, target.shape, value.shape)
                    target.copy_(torch.from_numpy(value.copy()))

        with torch.no_grad():
            self.pos.copy_(torch.from_numpy(flat["pos_embed"].copy()))
            put(self.embed, "patch_embed")
            put(self.norm, "norm")
            put(self.head_norm, "frame_head/norm")
            put(self.head, "frame_head/fc")
            names = dict(norm1="norm1", norm2="norm2", qkv="attn/qkv", out="attn/out")
            names |= dict(up="mlp/up", down="mlp/down")
            for layer, block in enumerate(self.blocks):
                for mine, name in names.items():
                    put(getattr(block, mine), f"blocks/layer0/{name}", layer)
                mixer: Any = getattr(block, "mixer", None)
                if mixer is not None:
                    put(block.norm_t, "blocks/layer0/norm_t", layer)
                    put(mixer.input, "blocks/layer0/mixer/input", layer)
                    w = flat["blocks/layer0/mixer/recurrent"][layer]
                    mixer.recurrent.weight.copy_(torch.from_numpy(w.T.copy()))


class Variant:
    """One way to run the student: eager or compiled, in one dtype."""

    def __init__(self, task: dict[str, Any], flat: dict[str, np.ndarray], mode: str, dtype: str):
        student = Student(**task["shape"]).eval()
        student.load(flat)
        kind = getattr(torch, dtype)
        student = student.to(kind)
        student.mean, student.std = student.mean.float(), student.std.float()
        self.frames = [torch.from_numpy(f) for f in task["frames"]]
        self.shape, self.kind = task["shape"], kind
        self.frozen = mode == "frozen"
        self.carry, self.count = self.fresh(), 0
        start = time.perf_counter()
        self.options: dict[str, Any] = {"freezing": True} if mode == "frozen" else {}
        self.run = student
        if mode != "eager":
            self.run = torch.compile(student, options=self.options, fullgraph=True, dynamic=False)
            torch._dynamo.config.error_on_recompile = False
        self.step()
        self.step()  # of a carry that the step itself made: its guards are those of all later ones
        self.compile_s = time.perf_counter() - start
        if mode != "eager":
            torch._dynamo.config.error_on_recompile = True

    def fresh(self) -> list[Any]:
        """The carry of a stream that has seen nothing."""
        s = self.shape
        one = lambda width, kind: torch.zeros(1, s["tokens"], width, dtype=kind)
        with torch.inference_mode(not self.frozen):
            if s.get("memory") == "lstm":
                pair = lambda: (one(s["dim"], torch.float32), one(s["dim"], torch.float32))
                return [pair() for _ in range(s["depth"])]
            return [one(s["dim"] // 8, self.kind) for _ in range(s["depth"])]

    def step(self):
        # Freezing needs no_grad while it traces; the others run in inference mode, the faster one.
        with torch.inference_mode(not self.frozen), torch.no_grad():
            frame = self.frames[self.count % len(self.frames)]
            self.carry, logits = self.run(self.carry, frame)
        self.count += 1
        return logits

    def trace(self, steps: int) -> np.ndarray:
        """Logits of the first frames of a new stream and its carry after them, flat."""
        self.carry, self.count = self.fresh(), 0
        logits = [self.step().numpy().ravel() for _ in range(steps)]
        flat = [a for past in self.carry for a in (past if isinstance(past, tuple) else (past,))]
        return np.concatenate([*logits, *(a.float().numpy().ravel() for a in flat)])


def make(task: dict[str, Any], flat: dict[str, np.ndarray], variant: str) -> Variant:
    """variant: "eager float32", "compile bfloat16", "frozen float32", ..."""
    torch.set_num_threads(task["threads"])
    mode, dtype = variant.split()
    return Variant(task, flat, mode, dtype)
