"""A sweep as a TOML file: read whole, checked whole, every mistake told with its line."""

from stage2.specification.reading import (
    Specification,
    find_specification,
    read_specification,
    ready_specifications,
)

__all__ = ["Specification", "find_specification", "read_specification", "ready_specifications"]
