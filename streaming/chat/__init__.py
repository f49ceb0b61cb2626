"""Talking about what is seen: words of a perception model, and a language model that has them."""

from .conversation import Conversation, Said
from .moments import Moment, Moments
from .narrator import Narrator, Round
from .transcript import Transcript

__all__ = ["Conversation", "Moment", "Moments", "Narrator", "Round", "Said", "Transcript"]
