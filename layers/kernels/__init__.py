"""Array operations with more than one implementation; ``reference.py`` defines what is correct."""

from .explain import Explanation, explain

__all__ = ["Explanation", "explain"]
