"""Classes of devices, and at which rate a model's step can run on them at most.

A bound from two figures of a data sheet, not a measurement: a frame needs its products and its
bytes moved, and real programs reach a part of either. What does not fit by this bound does not fit;
what fits by little has to be tried.
"""

from __future__ import annotations

import dataclasses

from .budget import Budget


@dataclasses.dataclass(frozen=True)
class Device:
    """A class of devices by one member's data sheet.

    Attributes:
      name, watts: what it is, and what its maker says it draws at most (0: not said).
      macs: int8 multiply-accumulates per second, dense: half of the maker's operations per
        second, without structured sparsity.
      bandwidth: bytes per second between its memory and its arithmetic.
      memory: bytes; of an accelerator without memory of its own, those on the chip.
      on_chip: weights of up to so many bytes stay beside the arithmetic and are not read again.
      source: whose figures these are.
    """

    name: str
    watts: float
    macs: float
    bandwidth: float
    memory: int
    source: str
    on_chip: int = 0

    def rate(self, budget: Budget) -> tuple[float, str]:
        """(frames/s of one stream at most with int8 weights, what limits it: "products",
        "bytes", or "memory" with a rate of 0 where the weights and the state do not fit)."""
        weights = budget.parameter_bytes / 4  # a byte each; what is not a weight is little
        state = budget.carry_bytes + budget.frame_bytes
        if weights + state > self.memory and not self.on_chip:
            return 0.0, "memory"
        read = state + (0 if weights <= self.on_chip else weights)
        products, moved = budget.macs / self.macs, read / self.bandwidth
        return 1 / max(products, moved), "products" if products > moved else "bytes"


# Rows of the deployment table, from what is worn to what stands in a rack.
DEVICES = (
    Device(
        "USB accelerator", 2, 2e12, 0.5e9, 8 << 20,
        "Google, Coral USB Accelerator data sheet: 4 TOPS, 2 W; 8 MB on the chip; USB 3",
        on_chip=8 << 20,
    ),
    Device(
        "headset, robot board", 0, 7.5e12, 44e9, 8 << 30,
        "Qualcomm, QRB5165 (RB5) product brief: 15 TOPS; LPDDR5 at 2,750 MHz, 64 bits",
    ),
    Device(
        "camera box", 15, 10e12, 68e9, 8 << 30,
        "NVIDIA, Jetson Orin Nano 8 GB data sheet: 20 dense int8 TOPS, 68 GB/s",
    ),
    Device(
        "robot, vehicle", 60, 69e12, 204.8e9, 64 << 30,
        "NVIDIA, Jetson AGX Orin 64 GB data sheet: 275 sparse int8 TOPS, DLAs too; 204.8 GB/s",
    ),
    Device(
        "edge server", 72, 121e12, 300e9, 24 << 30,
        "NVIDIA, L4 data sheet: 485 int8 TOPS, sparse; 300 GB/s",
    ),
    Device(
        "cloud accelerator", 0, 197e12, 819e9, 16 << 30,
        "Google Cloud, TPU v5e: 393 int8 TOPS, 819 GB/s",
    ),
)  # fmt: skip


def table(budget: Budget) -> list[str]:
    """The deployment table of one model, a line per class."""
    lines = []
    for device in DEVICES:
        rate, limit = device.rate(budget)
        watts = f" ({device.watts:g} W)" if device.watts else ""
        most = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        told = f"at most {most} frames/s, by its {limit}" if rate else "does not fit"
        lines.append(f"{device.name}{watts}: {told}")
    return lines
