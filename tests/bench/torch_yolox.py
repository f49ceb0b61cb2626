"""YOLOX-nano in PyTorch, as a torch user would write it, with our weights: uint8 frame of the
network's own size in, the boxes that non-maximum suppression keeps out.

The network and the decoding are one compiled program. Suppression gives as many boxes as there are,
so it runs behind it; greedy, over the few candidates above the threshold.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STRIDES = (8, 16, 32)


class Base(nn.Module):
    """Convolution and SiLU."""

    def __init__(self, inside: int, width: int, size: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inside, width, size, stride, size // 2, groups=groups)

    def forward(self, x):
        return F.silu(self.conv(x))


class Conv3(nn.Module):
    """A 3 x 3 filter per channel, then 1 x 1."""

    def __init__(self, inside: int, width: int, stride: int = 1):
        super().__init__()
        self.depth, self.point = Base(inside, inside, 3, stride, inside), Base(inside, width)

    def forward(self, x):
        return self.point(self.depth(x))


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool):
        super().__init__()
        self.reduce, self.filter, self.shortcut = Base(width, width), Conv3(width, width), shortcut

    def forward(self, x):
        y = self.filter(self.reduce(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    def __init__(self, inside: int, width: int, depth: int, shortcut: bool):
        super().__init__()
        half = width // 2
        self.main, self.around, self.join = (
            Base(inside, half),
            Base(inside, half),
            Base(width, width),
        )
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x):
        return self.join(torch.cat([self.blocks(self.main(x)), self.around(x)], 1))


class SPP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.reduce, self.join = Base(width, width // 2), Base(2 * width, width)

    def forward(self, x):
        x = self.reduce(x)
        return self.join(torch.cat([x, *(F.max_pool2d(x, n, 1, n // 2) for n in (5, 9, 13))], 1))


class Head(nn.Module):
    def __init__(self, inside: int, width: int, classes: int):
        super().__init__()
        self.stem = Base(inside, width)
        self.cls = nn.Sequential(Conv3(width, width), Conv3(width, width))
        self.reg = nn.Sequential(Conv3(width, width), Conv3(width, width))
        self.cls_out, self.box_out = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)
        self.obj_out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        c, r = self.cls(x), self.reg(x)
        y = [self.box_out(r), self.obj_out(r).sigmoid(), self.cls_out(c).sigmoid()]
        return torch.cat(y, 1).flatten(2).transpose(1, 2)


class YOLOX(nn.Module):
    """uint8 frame [1, H, W, 3] RGB -> (boxes [cells, 4] in pixels, scores, labels [cells])."""

    cells: torch.Tensor
    strides: torch.Tensor

    def __init__(self, size: tuple[int, int], classes: int = 80, w: int = 16):
        super().__init__()
        self.stem = Base(12, w, 3)
        widths = (2 * w, 4 * w, 8 * w, 16 * w)
        self.down = nn.ModuleList(Conv3(n // 2, n, 2) for n in widths)
        depths = (1, 3, 3, 1)
        self.stages = nn.ModuleList(
            CSP(n, n, d, i < 3) for i, (n, d) in enumerate(zip(widths, depths, strict=True))
        )
        self.spp = SPP(16 * w)
        self.lateral5, self.lateral4 = Base(16 * w, 8 * w), Base(8 * w, 4 * w)
        self.top4, self.top3 = CSP(16 * w, 8 * w, 1, False), CSP(8 * w, 4 * w, 1, False)
        self.down3, self.down4 = Conv3(4 * w, 4 * w, 2), Conv3(8 * w, 8 * w, 2)
        self.bottom4, self.bottom5 = CSP(8 * w, 8 * w, 1, False), CSP(16 * w, 16 * w, 1, False)
        self.heads = nn.ModuleList(Head(n, 4 * w, classes) for n in widths[1:])
        cells, strides = [], []
        for stride in STRIDES:
            row, col = np.divmod(np.arange(size[0] * size[1] // stride**2), size[1] // stride)
            cells.append(np.stack([col, row], 1))
            strides.append(np.full((len(row), 1), stride))
        self.register_buffer("cells", torch.tensor(np.concatenate(cells), dtype=torch.float32))
        self.register_buffer("strides", torch.tensor(np.concatenate(strides), dtype=torch.float32))

    def forward(self, frame):
        x = frame.permute(0, 3, 1, 2).flip(1).to(self.stem.conv.weight.dtype)
        x = torch.cat([x[..., r::2, c::2] for c in (0, 1) for r in (0, 1)], 1)
        x = self.stem(x)
        maps = []
        for i, (down, stage) in enumerate(zip(self.down, self.stages, strict=True)):
            x = down(x)
            x = stage(self.spp(x) if i == 3 else x)
            maps.append(x)
        _, c3, c4, c5 = maps
        twice = lambda a: F.interpolate(a, scale_factor=2, mode="nearest")
        p5 = self.lateral5(c5)
        p4 = self.lateral4(self.top4(torch.cat([twice(p5), c4], 1)))
        n3 = self.top3(torch.cat([twice(p4), c3], 1))
        n4 = self.bottom4(torch.cat([self.down3(n3), p4], 1))
        n5 = self.bottom5(torch.cat([self.down4(n4), p5], 1))
        raw = torch.cat([h(m) for h, m in zip(self.heads, (n3, n4, n5), strict=True)], 1)[0].float()
        centre = (raw[:, :2] + self.cells) * self.strides
        half = raw[:, 2:4].exp() * self.strides / 2
        scores, labels = (raw[:, 4:5] * raw[:, 5:]).max(1)
        return torch.cat([centre - half, centre + half], 1), scores, labels

    def load(self, flat: dict[str, np.ndarray]) -> None:
        """Takes our flat weights."""
        state = {}
        for name, a in flat.items():
            parts = name.replace("blocks_", "blocks/").replace("down_", "down/")
            for word in ("stages", "heads", "cls", "reg"):
                for i in range(4):
                    parts = parts.replace(f"{word}_{i}", f"{word}/{i}")
            parts = parts.replace("/", ".").replace("depth.kernel", "depth.conv.kernel")
            parts = parts.replace("depth.bias", "depth.conv.bias")
            a = torch.from_numpy(np.array(a))
            if parts.endswith("kernel"):
                parts, a = parts.replace("kernel", "weight"), a.permute(3, 2, 0, 1).contiguous()
            state[parts] = a
        state |= {"cells": self.cells, "strides": self.strides}
        self.load_state_dict(state)


def kept(boxes, scores, labels, threshold: float = 0.3, iou: float = 0.45, slots: int = 100):
    """What stays of the cells, best first: (boxes, scores, labels)."""
    good = scores > threshold
    scores, order = scores[good].sort(descending=True, stable=True)
    boxes, labels = boxes[good][order], labels[good][order]
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    again = inter / (area[:, None] + area - inter) > iou
    again &= labels[:, None] == labels
    dropped, best = np.zeros(len(scores), bool), []
    for i, row in enumerate(again.numpy()):
        if not dropped[i] and len(best) < slots:
            best.append(i)
            dropped |= row
    return boxes[best], scores[best], labels[best]
