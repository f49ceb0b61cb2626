"""The server: sessions that outlive their connections, on top of the engine (extra ``serve``)."""

from .limits import Limits, ServeError
from .sessions import LiveSession, Sessions, Spec

__all__ = ["Limits", "LiveSession", "ServeError", "Sessions", "Spec"]
