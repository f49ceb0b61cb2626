"""Models by name: the registry, cards, weights, and the model families."""

from . import action, compress, encode, live, segment
from .preprocess import preprocess
from .registry import (
    Card,
    UnknownModelError,
    create_model,
    list_models,
    model_card,
    model_config,
    register,
)
from .weights import WeightsError, init_params, load, load_weights, save

__all__ = [
    "Card",
    "UnknownModelError",
    "WeightsError",
    "action",
    "compress",
    "create_model",
    "encode",
    "init_params",
    "list_models",
    "live",
    "load",
    "load_weights",
    "model_card",
    "model_config",
    "preprocess",
    "register",
    "save",
    "segment",
]
