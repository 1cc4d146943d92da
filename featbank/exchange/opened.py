"""What every reader gives."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Opened(NamedTuple):
    """The arrays of a file: their names, ``""`` for an array without one, and how to read one."""

    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
