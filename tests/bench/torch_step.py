"""The step of a TSA student written in PyTorch, as a torch user would, and its worker process.

Same shapes and same work as ``create_model("tsa-s16", heads=("frame",), num_classes=80)``: uint8
frame, normalise, patch embedding, blocks with a causal shift of 1/8 of the channels on the
residual stream, SDPA attention, MLP with the exact GELU, final norm, frame head, next carry.
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


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float):
        super().__init__()
        self.heads, self.shifted = heads, dim // 8
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, past, x):
        """past [B, N, D / 8], x [B, N, D] -> (the next past, x)."""
        future = x[..., : self.shifted]
        x = torch.cat([past, x[..., self.shifted :]], dim=-1)
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return future, x + self.down(F.gelu(self.up(self.norm2(x))))


class Student(nn.Module):
    """(carry: one [B, N, D / 8] per block, uint8 frame [B, H, W, 3]) -> (carry, logits [B, C])."""

    def __init__(self, tokens, patch, dim, depth, heads, classes, eps, mean, std):
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.embed = nn.Linear(patch * patch * 3, dim)
        self.pos = nn.Parameter(torch.zeros(tokens, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, eps) for _ in range(depth))
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


class Variant:
    """One way to run the student: eager or compiled, in one dtype."""

    def __init__(self, task: dict[str, Any], flat: dict[str, np.ndarray], mode: str, dtype: str):
        student = Student(**task["shape"]).eval()
        student.load(flat)
        kind = getattr(torch, dtype)
        student = student.to(kind)
        student.mean, student.std = student.mean.float(), student.std.float()
        self.frames = [torch.from_numpy(f) for f in task["frames"]]
        shape = task["shape"]
        past = torch.zeros(1, shape["tokens"], shape["dim"] // 8, dtype=kind)
        self.carry = [past] * shape["depth"]
        start = time.perf_counter()
        self.options: dict[str, Any] = {"freezing": True} if mode == "frozen" else {}
        self.run = student
        if mode != "eager":
            self.run = torch.compile(student, options=self.options)
        self.count = 0
        with torch.inference_mode(mode != "frozen"), torch.no_grad():
            self.run(self.carry, self.frames[0])
        self.frozen = mode == "frozen"
        self.compile_s = time.perf_counter() - start

    def step(self):
        # Freezing needs no_grad while it traces; the others run in inference mode, the faster one.
        with torch.inference_mode(not self.frozen), torch.no_grad():
            frame = self.frames[self.count % len(self.frames)]
            self.carry, logits = self.run(self.carry, frame)
        self.count += 1
        return logits

    def trace(self, steps: int) -> np.ndarray:
        """Logits of the first frames of a new stream and its carry after them, flat."""
        self.carry = [torch.zeros_like(past) for past in self.carry]
        self.count = 0
        logits = [self.step().numpy().ravel() for _ in range(steps)]
        return np.concatenate([*logits, *(past.float().numpy().ravel() for past in self.carry)])


def make(task: dict[str, Any], flat: dict[str, np.ndarray], variant: str) -> Variant:
    """variant: "eager float32", "compile bfloat16", "frozen float32", ..."""
    torch.set_num_threads(task["threads"])
    mode, dtype = variant.split()
    return Variant(task, flat, mode, dtype)
