"""The parameters of a model before any file is read: their shapes, and random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..layers.streaming import Params
from . import registry
from .errors import WeightsError

# they moved to `files`; who wrote a program against this module goes on
from .files import load_file as load_file
from .files import read_metadata as read_metadata
from .files import save as save

if TYPE_CHECKING:
    from flax import linen as nn


def example_inputs(name: str, model: nn.Module | None = None) -> tuple:
    """Arguments of ``model.init`` after the key, one frame or one clip of zeros."""
    import jax
    import jax.numpy as jnp

    entry = registry.find(name)
    module: Any = entry.build(entry.config) if model is None else model
    with jax.enable_x64(False):  # models are of float32 and narrower, whatever a project has set
        if entry.inputs is not None:
            return entry.inputs(module, entry.card)
        config = getattr(module, "config", entry.config)  # overrides included
        h, w = getattr(config, "image_size", entry.card.input_size)
        if entry.card.streaming:
            return module.init_carry(1), jnp.zeros((1, 1, h, w, 3))
        return (jnp.zeros((1, getattr(config, "frames", 1), h, w, 3)),)


def shapes_like(name: str, model: nn.Module) -> Params:
    """Variables of ``jax.ShapeDtypeStruct`` of a module of the registered ``name``."""
    import jax

    # inside eval_shape, so that not even a large carry is allocated
    init = lambda key: model.init(key, *example_inputs(name, model))
    with jax.enable_x64(False):
        return {"params": jax.eval_shape(init, jax.random.key(0))["params"]}


def same_family(name: str, model: nn.Module, where: Any, what: str = "") -> None:
    """Raises WeightsError where ``model`` is not of the family of the registered ``name``."""
    mine, theirs = getattr(model, "config", None), registry.find(name).config
    if mine is not None and type(mine) is not type(theirs):
        family = type(theirs).__name__.removesuffix("Config")
        raise WeightsError(
            f"{where}: weights of {what or name}: a model of kind {family}, not"
            f" {type(model).__name__}; load(...) makes the model that they fit"
        )


def shapes_of(name: str, **overrides: Any) -> Params:
    """Variables of ``jax.ShapeDtypeStruct`` of ``create_model(name, **overrides)``; computes
    nothing."""
    return shapes_like(name, registry.create_model(name, **overrides))


def init_params(name: str, *, seed: int = 0, **overrides: Any) -> tuple[nn.Module, Params]:
    """(module, variables) with random weights."""
    import jax

    model = registry.create_model(name, **overrides)
    init = jax.jit(lambda key: model.init(key, *example_inputs(name, model)))
    with jax.enable_x64(False):
        return model, {"params": init(jax.random.key(seed))["params"]}
