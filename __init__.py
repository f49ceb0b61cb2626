"""streamzoo: causal, real-time video models in JAX/Flax.

carry = model.init_carry(batch); carry, out = model.apply(params, carry, frames), any T >= 1.
"""

from .layers.contract import Subject, verify_contract
from .layers.mixers import mix
from .streaming import Session, Slots, Step, open_source, rollout
from .zoo import (
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
    "Session",
    "Slots",
    "Step",
    "Subject",
    "create_model",
    "init_params",
    "list_models",
    "load",
    "load_weights",
    "mix",
    "model_card",
    "open_source",
    "preprocess",
    "rollout",
    "save",
    "verify_contract",
]
