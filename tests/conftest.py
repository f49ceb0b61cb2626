"""Test settings. Compiling is most of the suite's time: the numbers do not need LLVM's best."""

import importlib.util
import os

from .parity.shim import mend_torchvision

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if importlib.util.find_spec("torchvision"):
    mend_torchvision()  # before any test imports transformers, which imports it
