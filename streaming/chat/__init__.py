"""Talking about what is seen: words of a perception model, and a language model that has them."""

from .conversation import Conversation, Said
from .narrator import Narrator, Round
from .transcript import Transcript

__all__ = ["Conversation", "Narrator", "Round", "Said", "Transcript"]
