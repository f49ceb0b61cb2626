"""Array operations with more than one implementation; ``reference.py`` defines what is correct."""

from .explain import Explanation, explain, explain_model

__all__ = ["Explanation", "explain", "explain_model"]
