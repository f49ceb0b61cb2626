"""Models by name: the registry, cards and weights.

A family of models (``zoo.encode``, ``zoo.segment``, ...) is imported when one of its names is used.
"""

from .compress import compress
from .errors import WeightsError
from .files import save
from .picture import picture
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
from .resolve import Resolved, card_of, load, load_weights, resolve
from .streams import as_stream
from .weights import init_params

__all__ = [
    "Card",
    "Resolved",
    "UnknownModelError",
    "WeightsError",
    "as_stream",
    "card_of",
    "compress",
    "create_model",
    "init_params",
    "list_models",
    "load",
    "load_weights",
    "model_card",
    "model_config",
    "picture",
    "preprocess",
    "register",
    "resolve",
    "save",
]
