"""A model's step as a file that other programs run, its carry as named inputs and outputs."""

from .artefact import FORMATS, export

__all__ = ["FORMATS", "export"]
