"""What the loop can learn about actions: from labels, or from a teacher."""

from .distil import Distil, DistilConfig
from .persons import person_terms
from .streams import first_carry, prepared, reset
from .supervise import Supervise, SuperviseConfig

__all__ = [
    "Distil", "DistilConfig", "Supervise", "SuperviseConfig", "first_carry", "person_terms",
    "prepared", "reset",
]  # fmt: skip
