"""streamzoo: causal, real-time video models in JAX/Flax.

carry = model.init_carry(batch); carry, out = model.apply(params, carry, frames), any T >= 1.
"""

from typing import TYPE_CHECKING

from .layers.lazy import on_demand

if TYPE_CHECKING:  # and each of them when it is asked for
    from . import layers, streaming, zoo
    from .layers.contract import Subject, verify_contract
    from .layers.mixers import mix
    from .streaming import Session, Slots, SourceError, Step, open_source, rollout
    from .streaming.one_call import watch
    from .streaming.track import Prompt, TrackSession
    from .zoo import (
        UnknownModelError,
        WeightsError,
        create_model,
        init_params,
        list_models,
        load,
        load_weights,
        model_card,
        preprocess,
        save,
    )

__version__ = "0.1.0"
__all__ = [
    "Prompt", "Session", "Slots", "SourceError", "Step", "Subject", "TrackSession",
    "UnknownModelError", "WeightsError", "create_model", "init_params", "layers", "list_models",
    "load", "load_weights", "mix", "model_card", "open_source", "preprocess", "rollout", "save",
    "streaming", "verify_contract", "watch", "zoo",
]  # fmt: skip
__getattr__ = on_demand(__name__, __file__)
