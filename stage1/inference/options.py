"""Options of extraction that shape features; importing them is quick."""

from __future__ import annotations

from dataclasses import dataclass

from featbank.settings import option

VIEWS = ("instance", "balanced")
"""BatchNorm statistics: the checkpoint's own, and those of class-balanced batches."""

TOKENS = ("cls", "mean", "patch")
"""Views of a layer: the class token, the mean over patches, and the patches; of a CNN, patches are
the positions of the map."""

BATCH = 256
"""Images per forward pass where no gradient is kept."""

SHARD_ROWS = 4096
"""Most images in a shard of features, each copy counted, under all views."""


@dataclass(frozen=True)
class FeatureOptions:
    """Options that features depend on, beside checkpoint and data: parameters of `stage1.extract`.

    Before the data set is loaded, `balanced_batches` may be None.
    """

    views: tuple[str, ...] = VIEWS
    dtype: str = option("float32", "float32 or float16.")
    augmentations: int = option(
        0,
        "Augmented copies of each training image, in place of the plain one. The features of "
        "train take as many times the room; 4 copies give most of the gain of fresh augmentation "
        "in every epoch of stage 2.",
        low=0,
    )
    balanced_batches: int | None = option(
        None,
        "Batches of 128 for the balanced view.",
        low=1,
        default_help="one pass over train, at least 64",
    )
    seed: int = option(
        0, "Seed of the balanced batches and the augmented copies.", low=0, high=2**63 - 1
    )
    shard_rows: int = option(SHARD_ROWS, "Most images in a shard, copies counted.", low=BATCH)
    layers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    layer_norm: bool = option(
        False,
        "Apply the final norm of a vision transformer to the tokens of --layers too, as the linear "
        "evaluation of DINOv2 does.",
    )

    def copies(self, split: str) -> int:
        """Copies stored of a split: the train split's augmented ones, or a plain one."""
        return max(1, self.augmentations) if split == "train" else 1

    def augmentation_seed(self, split: str) -> int | None:
        """Seed of a split's augmented copies, None for a plain one."""
        return self.seed if split == "train" and self.augmentations else None
