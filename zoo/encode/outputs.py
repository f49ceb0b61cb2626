"""What every encoder answers."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ...layers.streaming import Tapped
from ...layers.transformer import BlockStack, Taps
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class EncoderOutput(Output):
    """Features of frames. B frames, h x w cells of D channels; a video encoder has an axis of time
    after B. Fields are None where the model has no such thing."""

    features: Array | None = None  # [B, h, w, D] one vector per patch or cell
    pooled: Array | None = None  # [B, D] one vector per frame (video encoders: per clip)
    prefix: Array | None = None  # [B, P, D] class and register tokens, in the model's order
    taps: Tapped | None = None  # intermediates asked for by name, stacked over depth


def through(
    blocks: BlockStack, x: Array, taps: Taps = (), rope: tuple[Array, Array] | None = None
) -> tuple[Array, dict[str, Array]]:
    """All tokens at once, x [B, N, D], through blocks that keep no state.

    Returns (y [B, N, D], those named in ``taps`` of ``embedding`` [B, N, D], which is x, and,
    after or in each block, ``hidden`` [L, B, N, D] and ``attention`` [L, B, H, N, N]).
    """
    found: dict[str, Array] = {"embedding": x} if "embedding" in taps else {}
    deep = tuple(name for name in taps if name in ("hidden", "attention"))
    # the tokens are those of one "frame": the stack's axis of time has length 1
    _, y, stacked = blocks(blocks.init_carry(x.shape[0], 0), x[:, None], rope=rope, taps=deep)
    return y[:, 0], found | {name: value[:, :, 0] for name, value in stacked.items()}
