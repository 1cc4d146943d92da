"""Configurations to compare: one form for TOML and options, each problem with its place."""

from stage2.specification.reading import (
    find_specification,
    read_specification,
    ready_specifications,
)
from stage2.specification.specification import Specification

__all__ = ["Specification", "find_specification", "read_specification", "ready_specifications"]
