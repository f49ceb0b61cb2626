"""Data sets by name: a file each, with its config and how it is opened, and a line in the table."""

from .base import DataConfig
from .table import DATA_SETS, data_set

__all__ = ["DATA_SETS", "DataConfig", "data_set"]
