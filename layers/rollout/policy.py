"""A system as one value, and the systems by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from .keep import Keep
from .levels import Levels
from .positions import Absolute, Adjacent, Ahead, Ranked, Regions
from .read import Read

FOUR_STEPS = Levels.few(1000, 750, 500, 250)
SWITCHES = ("keep", "recache", "flush")
ORDERS = ("block", "window", "levels")


@dataclass(frozen=True)
class Rollout:
    """How endless video is made: block by block, each by a few denoising passes.

    Attributes:
      keep: the eviction law.
      read: the read list and position law of a denoising pass.
      levels: the level schedule.
      block: latent frames that are made at once.
      clean: a last pass of the finished frames without noise writes the memory (Self-Forcing);
        False: the last denoising pass has written it (Diagonal Distillation).
      clean_read: of that pass, where it differs.
      order: ``block``: a block is finished before the next; ``window``: as many blocks as there are
        levels are denoised together, each pass finishes the oldest and takes in a new one (Rolling
        Forcing); ``levels``: as many blocks, each alone with a memory of its level
        (StreamDiffusionV2; Live Avatar's timestep-forcing pipeline).
      micro: passes per step of a window: its blocks go down so many of ``levels``, and as many
        blocks stand in it as there are steps in the list (StreamDiT).
      straight: of a window: the next level is reached along the flow; False: by new noise.
      switch: what a new prompt does to the memory: ``keep`` it, ``recache`` it from the latest
        ``latents`` frames, or ``flush`` it down to the sinks and the last ``flushed`` frames.
      global_sink: a recache leaves the sinks as they are; False: its first frames are the new ones.
      latents: frames of which the latents are kept for a recache.
      flushed: recent frames that a flush leaves.
      source: where the system is described.

    Raises:
      ValueError: values that do not go together; the message says which.
    """

    keep: Keep = field(default_factory=lambda: Keep(sinks=3, recent=6))
    read: Read = field(default_factory=lambda: Read(12))
    levels: Levels = FOUR_STEPS
    block: int = 3
    clean: bool = True
    clean_read: Read | None = None
    order: str = "block"
    micro: int = 1
    straight: bool = False
    switch: str = "keep"
    global_sink: bool = True
    latents: int = 0
    flushed: int = 2
    source: str = ""

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order {self.order!r}: choose from {ORDERS}")
        if self.keep.refresh is not None and self.block != 1:
            raise ValueError(f"sinks are refreshed frame by frame, not by blocks of {self.block}")
        if self.block < 1:
            raise ValueError(f"blocks of {self.block} frames: at least 1")
        if self.switch not in SWITCHES:
            raise ValueError(f"switch {self.switch!r}: choose from {SWITCHES}")
        if self.keep.sinks + self.block > self.read.window:
            raise ValueError(
                f"{self.keep.sinks} sinks and a block of {self.block} frames are more than the"
                f" window of {self.read.window}"
            )
        if self.keep.sinks % self.block and self.keep.sinks > self.block:
            raise ValueError(f"{self.keep.sinks} sinks are no whole blocks of {self.block} frames")
        together = self.block * (1 + self.under_way * (self.order == "window"))
        reads = [(self.read, together)]
        if self.clean:
            reads.append((self.clean_read or self.read, self.block))
        for read, frames in reads:
            reach, kept = read.reach(self.keep, frames), self.keep.recent
            if reach > kept + self.keep.sinks * (not read.sinks):
                raise ValueError(
                    f"a window of {read.window} frames reads {reach} recent ones, and {kept} are"
                    " kept"
                )
        if self.switch == "recache" and self.latents < self.keep.sinks + self.keep.recent:
            raise ValueError(
                f"a recache needs the latents of at least {self.keep.sinks + self.keep.recent}"
                f" frames, not {self.latents}"
            )
        if self.order != "block" and (len(self.levels.times) != 1 or self.switch == "recache"):
            raise ValueError(f"order {self.order!r} has one list of levels and no recache")
        if self.micro != 1 and (self.order != "window" or len(self.levels.steady) % self.micro):
            raise ValueError(
                f"{len(self.levels.steady)} levels in steps of {self.micro}: a window whose blocks"
                " are a whole number"
            )
        if self.keep.top and (self.order != "block" or self.switch == "recache"):
            raise ValueError("tokens of many frames stay block by block, and without a recache")
        if self.order == "levels" and self.clean:
            raise ValueError("the levels of a pipeline keep what they saw: clean=False")

    @property
    def under_way(self) -> int:
        """Blocks that are begun and not finished before a step, once the stream runs."""
        return 0 if self.order == "block" else len(self.levels.steady) // self.micro - 1

    @property
    def latency(self) -> int:
        """Steps whose output is no finished block, from the start of a stream."""
        return self.under_way


def self_forcing(window: int = 12, sinks: int = 3) -> Rollout:
    """Self-Forcing with a window of so many frames (arXiv 2506.08009; LongLive v1 has its numbers
    with 12 and 3)."""
    keep = Keep(sinks=sinks, recent=window - sinks - 3)
    source = "Huang et al., Self Forcing (arXiv 2506.08009)"
    return Rollout(keep, Read(window), source=source)


def longlive(recache: bool = True, global_sink: bool = True, infinite: bool = False) -> Rollout:
    """LongLive (arXiv 2509.22622): sinks, a short window, a recache on a new prompt; ``infinite``:
    positions by rank, so that the stream has no end."""
    positions = Ranked() if infinite else Absolute()
    return Rollout(
        Keep(sinks=3, recent=6),
        Read(12, positions=positions),
        switch="recache" if recache else "keep",
        global_sink=global_sink,
        latents=12 if recache else 0,
        source="Yang et al., LongLive (arXiv 2509.22622)",
    )


def infinity_rope(window: int = 6, sinks: int = 1) -> Rollout:
    """Infinity-RoPE (arXiv 2511.20649): positions by rank; a new prompt flushes, a cut jumps."""
    return Rollout(
        Keep(sinks=sinks, recent=window - sinks - 3),
        Read(window, positions=Ranked(cut_at=45)),
        switch="flush",
        source="Yesiltepe et al., Infinity-RoPE (arXiv 2511.20649)",
    )


def anchor_forcing() -> Rollout:
    """Anchor Forcing: the first frames of a prompt are kept as an anchor, positions in regions."""
    return Rollout(
        Keep(sinks=3, recent=6, anchors=3),
        Read(12, positions=Regions(), bridge=4),
        switch="recache",
        latents=12,
        source="vivoCameraResearch/Anchor-Forcing, pipeline/interactive_causal_inference.py",
    )


def rolling_forcing() -> Rollout:
    """Rolling Forcing (arXiv 2509.25161): five blocks at five levels, denoised together."""
    return Rollout(
        Keep(sinks=3, recent=18),
        Read(21, positions=Adjacent()),
        Levels.few(1000, 800, 600, 400, 200),
        clean_read=Read(21, sinks=False),
        order="window",
        source="Liu et al., Rolling Forcing (arXiv 2509.25161)",
    )


def partitions(chunks: int, size: int, micro: int = 1, reference: int = 0) -> Rollout:
    """StreamDiT's buffer (arXiv 2507.03745, section 3.2) of ``chunks`` chunks of ``size`` frames,
    ``micro`` passes from one shift to the next, and ``reference`` finished frames that are read
    along. One chunk is plain diffusion of a clip, chunks of one frame are a full diagonal."""
    count = chunks * micro
    times = tuple(1000.0 * (count - i) / count for i in range(count))
    return Rollout(
        Keep(recent=reference),
        Read(reference + chunks * size),
        Levels((times,), shift=1.0),
        clean_read=Read(reference + size),
        block=size,
        clean=reference > 0,
        order="window",
        micro=micro,
        straight=True,
        source="Kodaira et al., StreamDiT (arXiv 2507.03745), section 3.2",
    )


def rain() -> Rollout:
    """RAIN (arXiv 2412.19489): four groups of four frames at four levels, no memory behind them."""
    return Rollout(
        Keep(recent=0),
        Read(16),
        Levels(((999.0, 749.0, 499.0, 249.0),), shift=1.0),
        block=4,
        clean=False,
        order="window",
        source="Shu et al., RAIN (arXiv 2412.19489), section 3.1",
    )


def stream_diffusion_v2(refresh: float | None = None) -> Rollout:
    """StreamDiffusionV2 (arXiv 2511.07399): a frame at a time, each noise level with a memory."""
    return Rollout(
        Keep(sinks=3, recent=2, refresh=refresh),
        Read(6),
        Levels(((700.0, 500.0, 400.0, 200.0),), shift=8.0),
        block=1,
        clean=False,
        order="levels",
        source="Feng et al., StreamDiffusionV2 (arXiv 2511.07399)",
    )


def diagonal_distillation() -> Rollout:
    """Diagonal Distillation: 4, 3, then 2 passes per block, and no clean pass."""
    times = ((1000, 933, 733, 357), (1000, 933, 357), (1000, warped_last()))
    return Rollout(
        levels=Levels(tuple(tuple(map(float, row)) for row in times)),
        clean=False,
        source="Sphere-AI-Lab/diagdistill, pipeline/causal_inference.py",
    )


def warped_last() -> float:
    """The level of step 100 at shift 5: 357.14."""
    return Levels.few(100).steady[0]


def live_avatar(distance: int = 12) -> Rollout:
    """Live Avatar (arXiv 2512.04677): a ring, and a reference that stays ahead of the stream."""
    return Rollout(
        Keep(recent=9, conditions=1),
        Read(12, positions=Ahead(distance)),
        source="Huang et al., Live Avatar (arXiv 2512.04677), section 3.3",
    )


def deep_forcing(top: int = 2) -> Rollout:
    """Deep Forcing (arXiv 2512.05081): half the window are sinks, and ``top`` frames' worth of
    tokens stay of what leaves. Ours has whole blocks of sinks, 9 frames for the paper's 10."""
    return Rollout(
        Keep(sinks=9, recent=9, top=top),
        Read(21, positions=Adjacent(gap=0)),
        source="Yi et al., Deep Forcing (arXiv 2512.05081), sections 4.2 and 4.3",
    )


def context_forcing() -> Rollout:
    """Ours, after Context Forcing's sketch: sinks, slow blocks (every fourth), fast ones."""
    return Rollout(
        Keep(sinks=3, recent=6, slow=6, every=4),
        Read(12, positions=Ranked()),
        source="TIGER-AI-Lab/Context-Forcing, README",
    )


ROLLOUTS: dict[str, Callable[[], Rollout]] = {
    "self-forcing": lambda: self_forcing(21, 0),
    "self-forcing-w6": lambda: self_forcing(6, 0),
    "self-forcing-w12s3": self_forcing,
    "longlive": longlive,
    "longlive-new-sink": lambda: longlive(global_sink=False),
    "longlive-infinite": lambda: longlive(infinite=True),
    "infinity-rope": infinity_rope,
    "anchor-forcing": anchor_forcing,
    "rolling-forcing": rolling_forcing,
    "rain": rain,
    "streamdit": lambda: partitions(8, 2, 4),
    "stream-diffusion-v2": stream_diffusion_v2,
    "diagonal-distillation": diagonal_distillation,
    "live-avatar": live_avatar,
    "deep-forcing": deep_forcing,
    "context-forcing": context_forcing,
}


def rollout(name: str) -> Rollout:
    """The system of a name.

    Raises:
      ValueError: no system has this name; the message names the nearest.
    """
    if name not in ROLLOUTS:
        near = difflib.get_close_matches(name, ROLLOUTS, n=3, cutoff=0.4) or list(ROLLOUTS)
        raise ValueError(f"unknown rollout {name!r}; did you mean {', '.join(near)}?")
    return ROLLOUTS[name]()
