"""Whole numbers inside a kernel: places of rows, heads and pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax


def quotient(x: Any, by: int) -> Any:
    """x // by, of int32 that are not negative, [...] or a number.

    ``//`` of an array asks for the kind of the chip, which an export from another machine lacks;
    and a plain number has 64 bits where a project computes in 64.
    """
    return x // by if isinstance(x, int) else lax.div(x, np.dtype(x.dtype).type(by))


def remainder(x: Any, by: int) -> Any:
    """x % by, as :func:`quotient`."""
    return x % by if isinstance(x, int) else lax.rem(x, np.dtype(x.dtype).type(by))
