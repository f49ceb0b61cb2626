"""A Wan-like student that makes video block by block, in PyTorch, as a torch user would.

Self-Forcing's way with a cache: keys are turned at their absolute place when they are written, a
window slides over them, the first frames stay. Its weights are ours, so its video is ours too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def rms(x: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps).to(x.dtype) * scale


class Student:
    """One stream of B rows of ``longlive``'s rollout without prompts: 4 passes and a clean one."""

    def __init__(self, flat: dict[str, np.ndarray], config: Any, rollout: Any):
        self.c, self.r = config, rollout
        self.w = {name: torch.from_numpy(np.array(a)) for name, a in flat.items()}
        self.rates = torch.from_numpy(config.rotary.rates)
        self.axis = torch.from_numpy(config.rotary.axis)
        passes = rollout.levels.passes
        self.times, self.sigmas = passes.times[0].tolist(), passes.sigmas[0].tolist()
        self.cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.start = 0

    def dense(self, name: str, x: torch.Tensor, layer: int | None = None) -> torch.Tensor:
        kernel, bias = self.w[name + "/kernel"], self.w[name + "/bias"]
        if layer is not None:
            kernel, bias = kernel[layer], bias[layer]
        return x @ kernel + bias

    def turn(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """x [B, T, H, Dh] at places [T, 3]."""
        angle = places[:, self.axis].float() * self.rates
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def time(self, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.c.frequencies // 2
        angle = t * 10_000.0 ** (-torch.arange(half) / half)
        waves = torch.cat([angle.cos(), angle.sin()])
        time = self.dense("time_out", F.silu(self.dense("time_in", waves)))
        return time, self.dense("time_blocks", F.silu(time)).view(6, -1)

    def flow(self, x: torch.Tensor, t: float, text: torch.Tensor):
        """x [B, F, h, w, C] -> (flow, keys and values of each layer, turned)."""
        c, (rows, columns) = self.c, self.c.grid
        batch, frames = x.shape[:2]
        p, n = c.patch, rows * columns
        grid = torch.cartesian_prod(
            torch.arange(self.start, self.start + frames), torch.arange(rows), torch.arange(columns)
        )
        h = x.view(batch, frames, rows, p, columns, p, -1).permute(0, 1, 2, 4, 3, 5, 6)
        h = self.dense("patches", h.reshape(batch, frames * n, -1))
        time, six = self.time(t)
        context = self.dense("text_out", F.gelu(self.dense("text_in", text), approximate="tanh"))
        heads = lambda a: a.view(batch, -1, c.heads, c.head)
        look = lambda q, k, v: (
            F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)))
            .transpose(1, 2)
            .reshape(batch, -1, c.dim)
        )
        plain = lambda a: F.layer_norm(a, (c.dim,), eps=c.eps)
        written = []
        for i in range(c.depth):
            name = "blocks/layer0/"
            m = six + self.w[name + "modulation"][i]
            y = plain(h) * (1 + m[1]) + m[0]
            q, k, v = self.dense(name + "attn/qkv", y, i).chunk(3, dim=-1)
            q = rms(q, self.w[name + "attn/query_norm/scale"][i], c.eps)
            k = rms(k, self.w[name + "attn/key_norm/scale"][i], c.eps)
            q, k, v = self.turn(heads(q), grid), self.turn(heads(k), grid), heads(v)
            written.append((k, v))
            if self.cache:
                k = torch.cat([self.cache[i][0], k], dim=1)
                v = torch.cat([self.cache[i][1], v], dim=1)
            h = h + self.dense(name + "attn/out", look(q, k, v), i) * m[2]
            cross = name + "norm_cross/"
            y = plain(h) * self.w[cross + "scale"][i] + self.w[cross + "bias"][i]
            q = rms(self.dense(name + "cross/query", y, i),
                    self.w[name + "cross/query_norm/scale"][i], c.eps)  # fmt: skip
            k = rms(self.dense(name + "cross/key", context, i),
                    self.w[name + "cross/key_norm/scale"][i], c.eps)  # fmt: skip
            v = self.dense(name + "cross/value", context, i)
            read = look(heads(q), heads(k), heads(v))
            h = h + self.dense(name + "cross/out", read, i)
            y = F.gelu(self.dense(name + "mlp/up", plain(h) * (1 + m[4]) + m[3], i),
                       approximate="tanh")  # fmt: skip
            h = h + self.dense(name + "mlp/down", y, i) * m[5]
        two = time + self.w["modulation"]
        out = self.dense("head", plain(h) * (1 + two[1]) + two[0])
        out = out.view(batch, frames, rows, columns, p, p, -1).permute(0, 1, 2, 4, 3, 5, 6)
        return out.reshape(x.shape), written

    @torch.inference_mode()
    def block(self, draws: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The next block [B, F, h, w, C] of noise [B, P, F, h, w, C]; the cache has it then."""
        x = self.sigmas[0] * draws[:, 0]
        for p, (t, sigma) in enumerate(zip(self.times, self.sigmas, strict=True)):
            flow, _ = self.flow(x, t, text)
            x = x - sigma * flow
            if p + 1 < len(self.times):
                after = self.sigmas[p + 1]
                x = (1 - after) * x + after * draws[:, p + 1]
        _, written = self.flow(x, 0.0, text)
        tokens = self.c.grid[0] * self.c.grid[1]
        sinks, recent = self.r.keep.sinks * tokens, self.r.keep.recent * tokens
        if self.cache:
            written = [
                tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True))
                for old, new in zip(self.cache, written, strict=True)
            ]
        size = sinks + recent
        cut = lambda a: a if a.shape[1] <= size else torch.cat([a[:, :sinks], a[:, -recent:]], 1)
        self.cache = [(cut(k), cut(v)) for k, v in written]
        self.start += draws.shape[2]
        return x
