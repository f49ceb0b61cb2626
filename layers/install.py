"""How streamzoo is installed: the one place that says it, as the name is on no package index."""

from __future__ import annotations


def how_to_install(*extras: str) -> str:
    """The command that installs streamzoo with these extras, and where to type it.

    Messages end with it: ``raise ImportError(f"drawing needs Pillow: {how_to_install('demo')}")``.
    The bare name is never advised: on an index it would be somebody else's.
    """
    return f'pip install -e ".[{",".join(extras)}]" in the folder of streamzoo\'s source'
