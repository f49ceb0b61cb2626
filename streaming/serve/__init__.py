"""The server: sessions that outlive their connections, on top of the engine (extra ``serve``)."""

from .limits import Limits, ServeError
from .live_session import LiveSession
from .sessions import Sessions
from .spec import Spec

__all__ = ["Limits", "LiveSession", "ServeError", "Sessions", "Spec"]
