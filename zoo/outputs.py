"""What the outputs of all models have in common."""

from __future__ import annotations

import dataclasses
from typing import Any, Self


class Output:
    """Base of an output, a ``flax.struct`` dataclass: type checkers do not see its ``replace``."""

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]
