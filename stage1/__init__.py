"""Stage 1: images → checkpoint → bank.

`train` trains a backbone on a long-tailed data set, `extract` writes its features to a bank.
Nothing here knows of a result.
"""

from typing import TYPE_CHECKING

from featbank.lazy import on_demand

if TYPE_CHECKING:
    from stage1.extraction.extract import extract
    from stage1.training.train import train

__all__ = ["extract", "train"]

__getattr__, __dir__ = on_demand(
    __name__, {"extract": "stage1.extraction.extract", "train": "stage1.training.train"}
)
