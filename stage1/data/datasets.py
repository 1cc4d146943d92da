"""Data sets of stage 1, loaded by name."""

from __future__ import annotations

import dataclasses

from featbank import errors
from stage1.data.catalogue import DATASETS, dataset_problems
from stage1.data.images import ImageDataset
from stage1.data.settings import DatasetSettings
from stage1.data.sources import READERS


def load_dataset(settings: DatasetSettings) -> ImageDataset:
    """Load a data set.

    Raises
    ------
    ConfigError
        For a wrong name or option, a missing list file or a missing data set.
    DataError, LabelRange
        For an image or a list line that cannot be used.
    """
    if problems := dataset_problems(settings):
        raise errors.ConfigError(" ".join(problems))
    row = DATASETS[settings.name]
    missing = {k: v for k, v in row.defaults.items() if getattr(settings, k) is None}
    return READERS[row.reader](dataclasses.replace(settings, **missing), row)
