"""Past one machine: replicas of the server under Ray Serve, and a directory of who serves whom
(extra ``cluster``).

Only :mod:`.replica`, :mod:`.ingress` and :mod:`.launch` import Ray.
"""

from .directory import Directory
from .messages import Beat, Full, Held, Load, Place, Settling
from .scaling import Scaling, wanted

__all__ = ["Beat", "Directory", "Full", "Held", "Load", "Place", "Scaling", "Settling", "wanted"]
