"""torchvision with a CPU build of torch: its compiled operators may be missing, and then neither
timm nor the image models of transformers can be imported."""

import functools
import sys
from typing import Any


@functools.cache
def mend_torchvision() -> Any:
    """Where torchvision's extension does not load, declares the two operators that its import
    refers to; neither is called here. Without torchvision nothing happens."""
    try:
        import torchvision
    except ImportError:
        return None
    except RuntimeError:
        import torch

        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library  # kept by the cache: its operators go when it is collected
    return None
