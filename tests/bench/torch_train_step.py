"""The training steps of a TSA student and of its dense teacher in PyTorch, as a torch user would.

Same shapes and work as ``train.tasks.Supervise`` does: uint8 frames, normalise, patches (or
tubelets), blocks with SDPA attention, the exact GELU and, in the student, a causal shift of 1/8 of
the channels; boxes pooled by RoIAlign, masked binary cross-entropy; gradient clipped by its norm,
fused AdamW with decay on matrices, an average of the weights. RoIAlign is separable here as well:
two small matrix products per box, which are faster than gathers.
"""

from __future__ import annotations

import os

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def axis_weights(low, high, length: int, cells: int, sampling: int, aligned: bool):
    """Bilinear weights of one axis: box edges [...] as fractions -> [..., cells, length]."""
    start, extent = low * length, (high - low) * length
    if aligned:
        start = start - 0.5
    else:
        extent = extent.clamp(min=1.0)
    step = extent / cells
    most = sampling or 2 * -(-length // cells)
    count = torch.full_like(step, sampling) if sampling else step.ceil().clamp(0, most)
    cell = torch.arange(cells, dtype=torch.float32)[:, None]
    sample = torch.arange(most, dtype=torch.float32)
    divisor = count.clamp(min=1.0)[..., None, None]
    at = start[..., None, None] + (cell + (sample + 0.5) / divisor) * step[..., None, None]
    taken = (sample < count[..., None, None]) & (at >= -1.0) & (at <= length)
    near = at.clamp(0.0, length - 1.0)[..., None] - torch.arange(length, dtype=torch.float32)
    hat = (1.0 - near.abs()).clamp(min=0.0)
    return torch.where(taken[..., None], hat, 0.0).sum(dim=-2) / divisor


def roi_align(features, boxes, mask, size: int, sampling: int, aligned: bool):
    """features [M, h, w, D], boxes [M, K, 4], mask [M, K] -> [M, K, size, size, D]."""
    m, height, width, depth = features.shape
    x1, y1, x2, y2 = torch.where(mask[..., None], boxes, 0.0).unbind(-1)
    in_y = axis_weights(y1, y2, height, size, sampling, aligned)
    in_x = axis_weights(x1, x2, width, size, sampling, aligned)
    in_x = torch.where(mask[..., None, None], in_x, 0.0)
    k = boxes.shape[1]
    half = in_y.reshape(m, k * size, height) @ features.reshape(m, height, width * depth)
    return in_x[:, :, None] @ half.view(m, k, size, width, depth)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float, shift: bool):
        super().__init__()
        self.heads, self.shifted = heads, dim // 8 if shift else 0
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, past, x):
        """past [B, N, D / 8], x [B, T, N, D] -> (the next past, x)."""
        if self.shifted:
            own = x[..., : self.shifted]
            before = torch.cat([past[:, None], own[:, :-1]], dim=1)
            past, x = own[:, -1], torch.cat([before, x[..., self.shifted :]], dim=-1)
        *lead, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(-1, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return past, x + self.down(F.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    """Student (``tubelet`` 0) or dense teacher; (carry, batch) -> (carry, loss)."""

    patch: int
    tubelet: int
    depth: int
    rows: int
    cols: int

    def __init__(self, shape: dict[str, Any]):
        super().__init__()
        for name in ("patch", "tubelet", "depth", "rows", "cols"):
            setattr(self, name, shape[name])
        self.register_buffer("mean", torch.tensor(shape["mean"]))
        self.register_buffer("std", torch.tensor(shape["std"]))
        dim, eps, student = shape["dim"], shape["eps"], not self.tubelet
        self.embed = nn.Linear(max(self.tubelet, 1) * self.patch**2 * 3, dim)
        tokens = self.rows * self.cols
        if student:
            self.pos = nn.Parameter(torch.zeros(tokens, dim))
            self.head_norm = nn.LayerNorm(dim, eps)
        else:
            self.register_buffer("table", torch.tensor(shape["table"]))
        self.blocks = nn.ModuleList(
            Block(dim, shape["heads"], eps, student) for _ in range(self.depth)
        )
        self.norm, self.head = nn.LayerNorm(dim, eps), nn.Linear(dim, shape["classes"])

    def forward(self, carry, batch):
        frames, boxes, there = batch["frames"], batch["boxes"], batch["box_valid"]
        known, labels = batch["known"], batch["labels"]
        b, steps = frames.shape[:2]
        t, p = max(self.tubelet, 1), self.patch
        x = (frames.float() / 255 - self.mean) / self.std
        x = x.view(b, steps // t, t, self.rows, p, self.cols, p, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
        x = self.embed(x.reshape(b, steps // t, self.rows * self.cols, t * p * p * 3))
        x = x.flatten(1, 2)[:, None] + self.table if self.tubelet else x + self.pos
        after = []
        for block, past in zip(self.blocks, carry, strict=True):
            past, x = block(past, x)
            after.append(past.detach() if past is not None else None)
        x = self.norm(x).view(-1, self.rows, self.cols, x.shape[-1])
        if self.tubelet:  # each tubelet answers for its last frame
            last = slice(t - 1, None, t)
            boxes, there = boxes[:, last].flatten(0, 1), there[:, last].flatten(0, 1)
            known, labels = known[:, last], labels[:, last]
            pooled = roi_align(x, boxes, there, 7, 0, False).amax(dim=(2, 3))
        else:
            boxes, there = boxes.flatten(0, 1), there.flatten(0, 1)
            pooled = roi_align(x, boxes, there, 1, 14, True)[:, :, 0, 0]
            pooled = self.head_norm(pooled)
        logits = self.head(pooled).view(labels.shape)
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)
        return after, (each * known).sum() / known.sum().clamp(min=1.0)

    def first_carry(self, lanes: int, dim: int):
        if self.tubelet:
            return [None] * self.depth
        return [torch.zeros(lanes, self.rows * self.cols, dim // 8) for _ in range(self.depth)]

    def pairs(self) -> Iterator[tuple[str, int | None, nn.Parameter, bool]]:
        """(our name, layer, parameter, transposed) of every weight."""
        top = {"embed": "patch_embed", "norm": "norm", "head": "head"}
        if not self.tubelet:
            top |= {"head": "roi_head/fc", "head_norm": "roi_head/norm"}
            yield "pos_embed", None, self.pos, False
        deep = dict(norm1="norm1", norm2="norm2", qkv="attn/qkv", out="attn/out")
        deep |= dict(up="mlp/up", down="mlp/down")
        found: list[tuple[str, int | None, Any]]  # modules with a weight and a bias
        found = [(ours, None, getattr(self, mine)) for mine, ours in top.items()]
        for layer, block in enumerate(self.blocks):
            found += [(f"blocks/layer0/{o}", layer, getattr(block, m)) for m, o in deep.items()]
        for name, layer, module in found:
            linear = isinstance(module, nn.Linear)
            yield f"{name}/{'kernel' if linear else 'scale'}", layer, module.weight, linear
            yield f"{name}/bias", layer, module.bias, False

    def load(self, flat: dict[str, np.ndarray]) -> None:
        seen = set()
        with torch.no_grad():
            for name, layer, parameter, turned in self.pairs():
                value = flat[name] if layer is None else flat[name][layer]
                parameter.copy_(torch.from_numpy((value.T if turned else value).copy()))
                seen.add(name)
        assert seen == set(flat), seen ^ set(flat)

    def gradients(self) -> dict[str, np.ndarray]:
        """By our names, stacked over depth."""
        found: dict[str, Any] = {}
        for name, layer, parameter, turned in self.pairs():
            grad = parameter.grad
            assert grad is not None
            value = (grad.T if turned else grad).numpy().copy()
            if layer is None:
                found[name] = value
            else:
                found.setdefault(name, []).append(value)
        return {n: np.stack(v) if isinstance(v, list) else v for n, v in found.items()}


class Variant:
    """One way to train: eager or compiled."""

    def __init__(self, task: dict[str, Any], flat: dict[str, np.ndarray], mode: str):
        torch.set_num_threads(task["threads"])
        self.task, self.flat = task, flat
        self.batches = [_tensors(batch) for batch in task["batches"]]
        self.net = Net(task["shape"])
        self.run: Any = torch.compile(self.net) if mode == "compile" else self.net
        start = time.perf_counter()
        self.reset()
        self.step()
        self.compile_s = time.perf_counter() - start
        self.reset()

    def reset(self) -> None:
        """The first weights and a new optimiser."""
        self.net.load(self.flat)
        self.net.zero_grad(set_to_none=True)
        matrices = [p for n, _, p, _ in self.net.pairs() if n.endswith("kernel")]
        others = [p for n, _, p, _ in self.net.pairs() if not n.endswith("kernel")]
        optim = self.task["optim"]
        groups: list[dict[str, Any]] = [dict(params=matrices, weight_decay=optim["weight_decay"])]
        groups.append(dict(params=others, weight_decay=0.0))
        self.optimiser = torch.optim.AdamW(
            groups, optim["learning_rate"], tuple(optim["betas"]), fused=True
        )
        self.params: list[torch.Tensor] = [*matrices, *others]
        self.average = [p.detach().clone() for p in self.params]
        self.carry = self.net.first_carry(len(self.batches[0]["frames"]), self.task["shape"]["dim"])
        self.count = 0

    def step(self) -> float:
        optim = self.task["optim"]
        for group in self.optimiser.param_groups:
            group["lr"] = self.task["rates"][self.count]
        self.carry, loss = self.run(self.carry, self.batches[self.count % len(self.batches)])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, optim["clip"])
        self.optimiser.step()
        keep = min(optim["ema"], (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                self.average, self.params, 1 - keep
            )
        self.count += 1
        return loss.item()

    def trace(self, steps: int) -> dict[str, Any]:
        """Losses of the first steps, the gradient of the first, and the weights' average."""
        self.reset()
        _, loss = self.run(self.carry, self.batches[0])
        loss.backward()
        grads = self.net.gradients()
        self.reset()
        return {"loss": [self.step() for _ in range(steps)], "grad": grads}


def _tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    names = ("frames", "boxes", "box_valid", "labels")
    found = {name: torch.from_numpy(batch[name].copy()) for name in names}
    known = batch["labelled"] & batch["box_valid"] & batch["valid"][..., None]
    return found | {"known": torch.from_numpy(known.astype(np.float32))}
