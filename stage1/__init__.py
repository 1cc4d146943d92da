"""Stage 1: images → checkpoint → bank.

`train` trains a backbone on a long-tailed data set, `extract` writes its features to a bank.
Nothing here knows of a result.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage1.extraction.extract import extract
    from stage1.training.train import train

__all__ = ["extract", "train"]


def __getattr__(name: str) -> Any:
    """`train` and `extract`, when they are asked for: PyTorch comes with them."""
    if name == "extract":
        from stage1.extraction.extract import extract

        return extract
    if name == "train":
        from stage1.training.train import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
